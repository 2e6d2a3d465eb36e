package client

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// How the engine writes values in JSON. Each also takes null and "" for its zero
// value, since Vault's answers have both.

// hexText is bytes as hex.
type hexText []byte

func (h *hexText) UnmarshalJSON(b []byte) error {
	text, err := textOf(b)
	if err != nil || text == "" {
		return err
	}
	*h, err = hex.DecodeString(text)
	return err
}

// stamp is a time as in RFC 3339.
type stamp struct{ time.Time }

func (s *stamp) UnmarshalJSON(b []byte) error {
	text, err := textOf(b)
	if err != nil || text == "" {
		return err
	}
	s.Time, err = time.Parse(time.RFC3339Nano, text)
	s.Time = s.UTC()
	return err
}

// seconds is a duration: a number of seconds, or a Go duration as text.
type seconds time.Duration

func (s *seconds) UnmarshalJSON(b []byte) error {
	text := string(b)
	if !bytes.HasPrefix(b, []byte(`"`)) && text != "null" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n > int64(maxDuration/time.Second) || n < 0 {
			return fmt.Errorf("%s is not a number of seconds", text)
		}
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	text, err := textOf(b)
	if err != nil || text == "" {
		return err
	}
	d, err := time.ParseDuration(text)
	*s = seconds(d)
	return err
}

const maxDuration = time.Duration(1<<63 - 1)

func textOf(b []byte) (string, error) {
	var text *string
	if json.Unmarshal(b, &text) != nil {
		return "", errors.New("a text was expected")
	}
	if text == nil {
		return "", nil
	}
	return *text, nil
}

// durationText writes a duration for a field of whole seconds, rounded up.
func durationText(d time.Duration) string {
	whole := d.Truncate(time.Second)
	if whole < d {
		whole += time.Second
	}
	return strconv.FormatInt(int64(whole/time.Second), 10) + "s"
}
