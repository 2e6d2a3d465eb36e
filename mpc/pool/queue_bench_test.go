package pool

import (
	"context"
	"testing"
)

// BenchmarkSession is what the coordinator itself adds to a signature with 2 of
// 3 shares: choosing, queueing and routing, over nodes that do no work.
func BenchmarkSession(b *testing.B) {
	p, h, _ := fakePool(b, 5)
	b.ReportAllocs()
	for b.Loop() {
		j := newFakeJob(p, 2, 3)
		if _, _, err := j.run(context.Background()); err != nil {
			b.Fatal(err)
		}
		h.forget()
	}
}

// BenchmarkChoose is the choosing and queueing alone.
func BenchmarkChoose(b *testing.B) {
	p, _, _ := fakePool(b, 5)
	b.ReportAllocs()
	for b.Loop() {
		j := newFakeJob(p, 2, 3)
		_, release, err := j.choose(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
