package backend

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// BenchmarkReadAll reads a mount of 10,000 accounts, as at the start and before
// a wrapping key is destroyed, and prints what the index of references keeps.
func BenchmarkReadAll(b *testing.B) {
	storage := &logical.InmemStorage{}
	fake := newFake(&testing.T{})
	s := bareStore(storage)
	r := goldenRecords()["account"].(*accountRecord)
	r.Previous = nil
	for i := range r.Current.Shares {
		r.Current.Shares[i] = fakeEnvelope(fmt.Appendf(nil, "share %d", i), 3)
	}
	const accounts = 10_000
	for i := range accounts {
		if err := s.putAccount(context.Background(), fmt.Sprintf("account-%05d", i), r); err != nil {
			b.Fatal(err)
		}
	}
	lb, err := Factory(Config{NewEngine: func(EngineConfig) Engine { return fake }})(context.Background(),
		&logical.BackendConfig{StorageView: storage, System: logical.TestSystemView()})
	if err != nil {
		b.Fatal(err)
	}
	back := lb.(*backend)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for b.Loop() {
		if complete, err := back.readAll(context.Background(), func(string, *accountRecord) {}); err != nil || !complete {
			b.Fatal(complete, err)
		}
	}
	b.ReportMetric(float64(heap()-before)/accounts, "B/account")
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N)*1000/accounts, "µs/account")
	if t := back.store.refs.tally(3); t.accounts != accounts {
		b.Errorf("%d accounts", t.accounts)
	}
}
