package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
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
	return (time.Duration(s) * time.Second).String()
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
