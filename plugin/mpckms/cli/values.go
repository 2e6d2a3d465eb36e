package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// seconds is a duration as Vault's API gives it: a number of seconds, or a Go
// duration string. It is shown as a number of seconds in JSON.
type seconds int64

func (s *seconds) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	var str string
	if json.Unmarshal(b, &str) != nil {
		str = string(b)
	}
	if str == "" {
		*s = 0
		return nil
	}
	if n, err := strconv.ParseInt(str, 10, 64); err == nil {
		*s = seconds(n)
		return nil
	}
	d, err := time.ParseDuration(str)
	if err != nil {
		return fmt.Errorf("%s is not a duration", b)
	}
	*s = seconds(d / time.Second)
	return nil
}

func (s seconds) String() string {
	if s == 0 {
		return ""
	}
	return short(time.Duration(s) * time.Second)
}

// short is a duration as people write it: 10m and not 10m0s.
func short(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

// moment is a time of the server without fractions of a second, for people. What
// is not a time stays as it is.
func moment(s string) string {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return s
	}
	return t.Format(time.RFC3339)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func count64(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
