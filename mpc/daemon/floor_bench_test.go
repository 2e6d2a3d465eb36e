package daemon

import (
	"path/filepath"
	"sync/atomic"
	"testing"
)

// BenchmarkFloorRaise writes a new epoch each time, alone and from 64 callers that
// share writes to the disk; BenchmarkFloorCheck is what an operation with an epoch
// that is known costs.
func BenchmarkFloorRaise(b *testing.B) {
	f, err := openFloor(filepath.Join(b.TempDir(), floorFile), true)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.Run("alone", func(b *testing.B) {
		var epoch uint64
		for b.Loop() {
			epoch++
			if err := f.Raise(b.Context(), record(1, epoch, [32]byte{7})); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.lower(b.Context(), [16]byte{1}, 0); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		var account atomic.Uint32
		b.SetParallelism(32) // times GOMAXPROCS
		b.RunParallel(func(pb *testing.PB) {
			r := record(byte(account.Add(1)), 0, [32]byte{7})
			r.AccountID[1] = 1
			for pb.Next() {
				r.Epoch++
				if err := f.Raise(b.Context(), r); err != nil {
					b.Error(err)
					return
				}
			}
		})
		for a := range account.Load() {
			_ = f.lower(b.Context(), [16]byte{byte(a + 1), 1}, 0)
		}
	})
}

func BenchmarkFloorCheck(b *testing.B) {
	f, err := openFloor(filepath.Join(b.TempDir(), floorFile), true)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r := record(1, 1, [32]byte{7})
	if err := f.Raise(b.Context(), r); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.Raise(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
