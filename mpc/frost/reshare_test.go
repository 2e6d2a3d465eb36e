package frost

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// reshareAll has the holders in from deal their shares anew and returns the new
// record and all its shares.
func reshareAll(t *testing.T, old *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, from []mpc.Index) (*mpc.PublicRecord, map[mpc.Index]*secret.Bytes) {
	t.Helper()
	var dealers []Dealer
	var dealings []*Dealing
	for _, i := range from {
		d, err := Deal(old, i, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		dealings = append(dealings, d)
		dealers = append(dealers, Dealer{i, d.Commitments})
	}
	next := *old
	next.Epoch++
	_, _ = rand.Read(next.EpochID[:])
	var err error
	if next.PublicShares, err = Reshare(old, dealers); err != nil {
		t.Fatal(err)
	}
	if err := CheckRecord(&next); err != nil {
		t.Fatal(err)
	}
	out := map[mpc.Index]*secret.Bytes{}
	for j := range mpc.Index(old.Shares) {
		var mine []*secret.Bytes
		for _, d := range dealings {
			mine = append(mine, d.SubShares[j])
		}
		share, err := AddSubShares(old, dealers, j+1, mine)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckShare(&next, j+1, share); err != nil {
			t.Fatalf("share %d: %v", j+1, err)
		}
		out[j+1] = share
	}
	return &next, out
}

// TestReshare: any t holders give all n receivers shares of the same key, which
// sign and refresh, and do not mix with the old ones.
func TestReshare(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		for _, c := range []struct {
			threshold, shares int
			from              []mpc.Index
		}{{2, 3, []mpc.Index{1, 3}}, {2, 3, []mpc.Index{2, 3}}, {3, 5, []mpc.Index{1, 4, 5}}, {2, 2, []mpc.Index{1, 2}}} {
			t.Run(fmt.Sprintf("%s/%d-of-%d/%v", a, c.threshold, c.shares, c.from), func(t *testing.T) {
				old, shares := account(t, a, c.threshold, c.shares)
				next, fresh := reshareAll(t, old, shares, c.from)
				if !bytes.Equal(next.PublicKey, old.PublicKey) {
					t.Fatal("the key changed")
				}
				for i, x := range next.PublicShares {
					if bytes.Equal(x, old.PublicShares[i]) {
						t.Errorf("share %d is what it was", i+1)
					}
				}
				if a.IsECDSA() {
					return // signing takes auxiliary keys and is tested with the nodes
				}
				signers := []mpc.Index{}
				for i := range c.threshold {
					signers = append(signers, mpc.Index(c.shares-i))
				}
				slices.Sort(signers)
				message := []byte("after the loss")
				signature := sign(t, next, fresh, signers, message)
				if ok, err := verify.Message(old, mpc.MessageRaw, mpc.HashNone, message, signature.Bytes); !ok || err != nil {
					t.Errorf("the new shares do not sign for the old key: %v", err)
				}
				refresh(t, next, fresh)
			})
		}
	}
}

func TestReshareRefuses(t *testing.T) {
	old, shares := account(t, mpc.Ed25519, 2, 3)
	other, foreign := account(t, mpc.Ed25519, 2, 3)
	deal := func(r *mpc.PublicRecord, i mpc.Index, s map[mpc.Index]*secret.Bytes) *Dealing {
		d, err := Deal(r, i, s[i])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	one, three, strange := deal(old, 1, shares), deal(old, 3, shares), deal(other, 3, foreign)
	good := []Dealer{{1, one.Commitments}, {3, three.Commitments}}
	small := make([]byte, 32) // the identity, and a point of order 2 below
	small[0] = 1
	for name, dealers := range map[string][]Dealer{
		"too few":               good[:1],
		"too many":              {good[0], {2, deal(old, 2, shares).Commitments}, good[1]},
		"twice":                 {good[0], good[0]},
		"out of order":          {good[1], good[0]},
		"share 0":               {{0, one.Commitments}, good[1]},
		"share 4":               {good[0], {4, three.Commitments}},
		"another account":       {good[0], {3, strange.Commitments}},
		"another share":         {good[0], {2, three.Commitments}},
		"too low a degree":      {good[0], {3, three.Commitments[:1]}},
		"too high a degree":     {good[0], {3, append(slices.Clone(three.Commitments), one.Commitments[1])}},
		"small order":           {good[0], {3, [][]byte{three.Commitments[0], small}}},
		"no commitments at all": {good[0], {3, nil}},
	} {
		if _, err := Reshare(old, dealers); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var dealer *DealerError
	for name, sub := range map[string][]*secret.Bytes{
		"of another receiver": {one.SubShares[0], three.SubShares[1]},
		"of another account":  {one.SubShares[0], strange.SubShares[0]},
		"changed":             {one.SubShares[0], secret.Copy(bytes.Repeat([]byte{1}, 32))},
		"zero":                {one.SubShares[0], secret.New(make([]byte, 32))},
		"short":               {one.SubShares[0], secret.New(make([]byte, 31))},
	} {
		if _, err := AddSubShares(old, good, 1, sub); !errors.As(err, &dealer) || dealer.Index != 3 {
			t.Errorf("a sub-share %s: %v", name, err)
		}
	}
	if _, err := AddSubShares(old, good, 1, one.SubShares[:1]); err == nil {
		t.Error("accepted a sub-share too few")
	}
	if _, err := Deal(old, 1, shares[2]); !errors.Is(err, mpc.ErrShareMismatch) {
		t.Errorf("dealt a share that is not one's own: %v", err)
	}
}
