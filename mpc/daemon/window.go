package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/secret"
)

// window is the time in which one coordinator may enrol: what a token's secret is
// and until when. It is a file, because `node enrol` and the daemon are two
// processes; it is binary, so that the secret is never a Go string:
// version (1), expiry in Unix seconds (8, big-endian), secret (32).
type window struct {
	secret  *secret.Bytes
	expires time.Time
}

const (
	windowVersion = 1
	windowSize    = 1 + 8 + 32
)

// errNoWindow: nothing is open, or it was used, or its time is over.
var errNoWindow = errors.New("no enrolment is open on this node, or its token was used or has expired: run `vault-plugin-secrets-mpc node enrol` on the node's host and use the token that it prints, once and within 15 minutes")

// openWindow replaces a window that is open; the change lock is held.
func openWindow(d stateDir, s *secret.Bytes, expires time.Time) error {
	b := append([]byte{windowVersion}, binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))...)
	b = append(b, s.Expose()...)
	defer secret.Wipe(b)
	return d.write(windowFile, b)
}

// readWindow returns the window that is open, for the caller to wipe, or
// errNoWindow. It removes nothing: a newer window could take the place meanwhile.
func readWindow(d stateDir, now time.Time) (*window, error) {
	b, err := d.read(windowFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoWindow
	}
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(b)
	if len(b) != windowSize || b[0] != windowVersion {
		return nil, fmt.Errorf("%s is damaged: run node enrol again", d.path(windowFile))
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(b[1:9])), 0)
	// The upper bound also ends a window after the clock was set back.
	if !now.Before(expires) || expires.Sub(now) > nodelink.EnrolWindow+time.Minute {
		return nil, errNoWindow
	}
	return &window{secret: secret.Copy(b[9:]), expires: expires}, nil
}
