package daemon

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"testing"
)

// TestNewestSet: the number never falls, also not with a restart, and each mount and
// authority has its own.
func TestNewestSet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor.db")
	mount, authority := [16]byte{1}, ed25519.PublicKey(bytes.Repeat([]byte{7}, 32))
	f, err := openFloor(path, true)
	if err != nil {
		t.Fatal(err)
	}
	newest := func(mount [16]byte, authority ed25519.PublicKey, serial, want uint64) {
		t.Helper()
		if got, err := f.Newest(mount, authority, serial); err != nil || got != want {
			t.Errorf("after set %d the newest is %d, %v; want %d", serial, got, err, want)
		}
	}
	newest(mount, authority, 5, 5)
	newest(mount, authority, 3, 5)
	newest(mount, ed25519.PublicKey(bytes.Repeat([]byte{8}, 32)), 2, 2)
	newest([16]byte{2}, authority, 1, 1)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = openFloor(path, false); err != nil {
		t.Fatal(err)
	}
	newest(mount, authority, 4, 5)
	newest(mount, authority, 6, 6)
	if n := f.count(); n != 0 {
		t.Errorf("%d accounts", n)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Newest(mount, authority, 9); err == nil {
		t.Error("a closed floor remembers")
	}
}
