package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
)

// record is a public record as far as the floor looks at it.
func record(account byte, epoch uint64, policy [32]byte) *mpc.PublicRecord {
	return &mpc.PublicRecord{AccountID: mpc.AccountID{account}, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3, Epoch: epoch,
		EpochID: mpc.EpochID{byte(epoch)}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: policy}
}

func testFloor(t *testing.T, path string, create bool) *Floor {
	t.Helper()
	f, err := openFloor(path, create)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFloorRules(t *testing.T) {
	f := testFloor(t, filepath.Join(t.TempDir(), floorFile), true)
	defer f.Close()
	none, policy, other := mpc.EmptySetHash(), [32]byte{7}, [32]byte{8}
	if err := f.Check(record(1, 3, none)); err != nil {
		t.Fatalf("an account that is not known: %v", err)
	}
	if f.count() != 0 {
		t.Fatal("a check changed the floor")
	}
	if err := f.Raise(t.Context(), record(1, 3, policy)); err != nil {
		t.Fatal(err)
	}
	another := record(1, 3, policy)
	another.EpochID[5] = 9
	for name, test := range map[string]struct {
		record *mpc.PublicRecord
		says   string // empty: passes
	}{
		"the same":                  {record(1, 3, policy), ""},
		"a newer one":               {record(1, 4, policy), ""},
		"a newer one, other policy": {record(1, 4, other), ""},
		"older":                     {record(1, 2, policy), "epoch 2 and this node has worked with epoch 3"},
		"another of the epoch":      {another, "another record of epoch 3"},
		"policy changed in place":   {record(1, 3, other), "another record of epoch 3"},
		"policy emptied":            {record(1, 4, none), "no policy"},
		"another account":           {record(2, 1, none), ""},
	} {
		err := f.Check(test.record)
		if (test.says == "") != (err == nil) || err != nil && (!errors.Is(err, node.ErrBelowFloor) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v", name, err)
		}
		if test.says != "" {
			if err := f.Raise(t.Context(), test.record); !errors.Is(err, node.ErrBelowFloor) {
				t.Errorf("%s: raised: %v", name, err)
			}
		}
	}
	if f.count() != 1 {
		t.Errorf("%d accounts", f.count())
	}
}

func TestFloorIsLowered(t *testing.T) {
	f := testFloor(t, filepath.Join(t.TempDir(), floorFile), true)
	defer f.Close()
	for i := byte(1); i <= 2; i++ {
		if err := f.Raise(t.Context(), record(i, 9, [32]byte{7})); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.lower(t.Context(), mpc.AccountID{1}, 10); err == nil {
		t.Error("lower raised")
	}
	if err := f.lower(t.Context(), mpc.AccountID{9}, 1); err == nil {
		t.Error("an account that is not there was lowered")
	}
	if err := f.lower(t.Context(), mpc.AccountID{1}, 5); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(record(1, 4, [32]byte{7})); !errors.Is(err, node.ErrBelowFloor) {
		t.Errorf("below what it was lowered to: %v", err)
	}
	// Any record of the epoch, with any policy or none; from then on that one.
	if err := f.Raise(t.Context(), record(1, 5, mpc.EmptySetHash())); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(record(1, 5, [32]byte{7})); !errors.Is(err, node.ErrBelowFloor) {
		t.Errorf("another record after the first: %v", err)
	}
	if err := f.lower(t.Context(), mpc.AccountID{2}, 0); err != nil || f.count() != 1 {
		t.Errorf("forgetting: %v, %d accounts", err, f.count())
	}
	if err := f.Check(record(2, 1, mpc.EmptySetHash())); err != nil {
		t.Errorf("an account that was forgotten: %v", err)
	}
}

// TestFloorManyAtOnce raises from many goroutines; two records of one epoch never
// both pass.
func TestFloorManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), floorFile)
	f := testFloor(t, path, true)
	const accounts, each = 40, 5
	var wait sync.WaitGroup
	errs := make(chan error, accounts*each+20)
	for a := range byte(accounts) {
		wait.Go(func() {
			for e := uint64(1); e <= each; e++ {
				errs <- f.Raise(t.Context(), record(a+1, e, [32]byte{7}))
			}
		})
	}
	var mu sync.Mutex
	won := 0
	for i := range byte(20) {
		wait.Go(func() {
			r := record(200, 1, [32]byte{7})
			r.EpochID[3] = i
			if f.Raise(t.Context(), r) == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d records of one epoch passed", won)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Raise(t.Context(), record(1, 9, [32]byte{7})); err == nil {
		t.Error("a closed floor was raised")
	}
	f = testFloor(t, path, false)
	defer f.Close()
	if f.count() != accounts+1 {
		t.Errorf("%d accounts after a restart", f.count())
	}
	all, err := f.list()
	if err != nil || len(all) != accounts+1 || all[0].Epoch != each {
		t.Errorf("%d entries, first %+v, %v", len(all), all[0], err)
	}
}

func TestFloorEndsWithItsContext(t *testing.T) {
	f := testFloor(t, filepath.Join(t.TempDir(), floorFile), true)
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Raise(ctx, record(1, 1, [32]byte{7})); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestFloorFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, floorFile)
	if _, err := openFloor(path, false); err == nil || !strings.Contains(err.Error(), "floor new") {
		t.Errorf("a floor that is gone: %v", err)
	}
	f := testFloor(t, path, true)
	if _, err := openFloor(path, false); !errors.Is(err, ErrInUse) {
		t.Errorf("a second process: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte{2}) }); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := openFloor(path, false); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("a newer version: %v", err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openFloor(path, false); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a damaged file: %v", err)
	}
}

// TestFloorIsFull does not need a million accounts: it sets the counter.
func TestFloorIsFull(t *testing.T) {
	f := testFloor(t, filepath.Join(t.TempDir(), floorFile), true)
	defer f.Close()
	if err := f.Raise(t.Context(), record(1, 1, [32]byte{7})); err != nil {
		t.Fatal(err)
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return setAccounts(tx, maxAccounts) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Raise(t.Context(), record(2, 1, [32]byte{7})); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("one too many: %v", err)
	}
	if err := f.Raise(t.Context(), record(1, 2, [32]byte{7})); err != nil {
		t.Errorf("one that is known: %v", err)
	}
}

// golden is what testdata/floor-v1.db was made of, by TestFloorGolden with
// MPC_UPDATE_GOLDEN=1.
func golden() []FloorEntry {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []FloorEntry{
		{Account: mpc.AccountID{1}, Epoch: 7, Record: [32]byte{0xAA}, Policy: [32]byte{0xBB}, Time: at},
		{Account: mpc.AccountID{2}, Epoch: 1 << 40, Time: at, Lowered: true},
	}
}

func TestFloorGolden(t *testing.T) {
	file := filepath.Join("testdata", "floor-v1.db")
	if os.Getenv("MPC_UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(file)
		f := testFloor(t, file, true)
		err := f.db.Update(func(tx *bolt.Tx) error {
			for _, e := range golden() {
				if err := tx.Bucket(bucketAccounts).Put(e.Account[:], e.marshal()); err != nil {
					return err
				}
			}
			return setAccounts(tx, len(golden()))
		})
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), floorFile)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f := testFloor(t, path, false)
	defer f.Close()
	all, err := f.list()
	if err != nil || len(all) != 2 || all[0] != golden()[0] || all[1] != golden()[1] || f.count() != 2 {
		t.Errorf("read %+v, %v", all, err)
	}
	const entry = "01" + "0000000000000007" + "aa00000000000000000000000000000000000000000000000000000000000000" +
		"bb00000000000000000000000000000000000000000000000000000000000000" + "00000000695735a500" // epoch, record, policy, time, not lowered
	if got := hex.EncodeToString(golden()[0].marshal()); got != entry {
		t.Errorf("an entry is now %s", got)
	}
}

func FuzzParseFloorEntry(f *testing.F) {
	f.Add(golden()[0].marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseFloorEntry(make([]byte, 16), b)
		if err == nil && !bytes.Equal(e.marshal(), b) {
			t.Error("an entry with two forms")
		}
	})
}

// TestFloorSurvivesAKill has another process raise the floor and say so, kills it,
// and finds everything that it had said.
func TestFloorSurvivesAKill(t *testing.T) {
	path := os.Getenv("MPC_TEST_FLOOR")
	if path != "" { // the other process
		f := testFloor(t, path, true)
		for e := uint64(1); ; e++ {
			if err := f.Raise(context.Background(), record(1, e, [32]byte{7})); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("raised %d\n", e)
		}
	}
	path = filepath.Join(t.TempDir(), floorFile)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestFloorSurvivesAKill$")
	cmd.Env = append(os.Environ(), "MPC_TEST_FLOOR="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var said uint64
	buffer := make([]byte, 0, 1<<16)
	chunk := make([]byte, 4096)
	for said < 20 {
		n, err := out.Read(chunk)
		if err != nil {
			t.Fatal(err)
		}
		buffer = append(buffer, chunk[:n]...)
		for {
			line, rest, whole := bytes.Cut(buffer, []byte("\n"))
			if !whole {
				break
			}
			buffer = rest
			if _, err := fmt.Sscanf(string(line), "raised %d", &said); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	f := testFloor(t, path, false)
	defer f.Close()
	e, known, err := f.entry(mpc.AccountID{1})
	if err != nil || !known || e.Epoch < said {
		t.Errorf("after the kill: epoch %d, %v; the process had said %d", e.Epoch, err, said)
	}
}
