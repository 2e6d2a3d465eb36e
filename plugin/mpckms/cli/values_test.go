package cli

import (
	"testing"
	"time"
)

func TestShort(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0: "0s", 10 * time.Second: "10s", time.Minute: "1m", 10 * time.Minute: "10m", 90 * time.Second: "1m30s",
		time.Hour: "1h", 20 * time.Hour: "20h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 168 * time.Hour: "168h",
	} {
		got := short(in)
		if got != want {
			t.Errorf("short(%v) = %q, want %q", in, got, want)
		}
		if back, err := time.ParseDuration(got); err != nil || back != in {
			t.Errorf("short(%v) = %q, which reads as %v, %v", in, got, back, err)
		}
	}
}

func TestMoment(t *testing.T) {
	for in, want := range map[string]string{
		"2026-01-02T03:04:05.123456789Z": "2026-01-02T03:04:05Z",
		"2026-01-02T03:04:05Z":           "2026-01-02T03:04:05Z",
		"":                               "",
		"soon":                           "soon",
	} {
		if got := moment(in); got != want {
			t.Errorf("moment(%q) = %q, want %q", in, got, want)
		}
	}
}
