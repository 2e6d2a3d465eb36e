//go:build cgo

package pool_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// TestThreeRegions: two nodes in each of three regions with a token each, no local
// ones. Shares are spread, and whatever fails in one region, the others sign.
func TestThreeRegions(t *testing.T) {
	c := startCluster(t, 0, "eu-1 eu eu", "eu-2 eu eu", "us-1 us us", "us-2 us us", "ap-1 ap ap", "ap-2 ap ap")
	account := c.create(t, mpc.BIP340Secp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	g := mpc.GuaranteeOf(2, account.Homes)
	if !g.RegionCompromise || !g.RegionLoss || !g.DomainCompromise || !g.DomainLoss || g.Regions != 3 {
		t.Fatalf("homes %v: %+v", account.Homes, g)
	}
	for i := range 5 {
		c.sign(t, account, l, []byte{1, byte(i)})
	}
	s := c.status(t, "eu-1")
	if !s.Remote || s.Region != "eu" || s.Domain != "eu" || s.Address == "" || s.RTT <= 0 || s.PID != 0 || s.Version != "v0" {
		t.Errorf("%+v", s)
	}
	if s.ClockSkew < -time.Minute || s.ClockSkew > time.Minute {
		t.Errorf("clock skew %v on one machine", s.ClockSkew)
	}

	t.Run("a node is killed", func(t *testing.T) {
		c.hosts["us-1"].kill()
		for i := range 5 {
			c.sign(t, account, l, []byte{2, byte(i)})
		}
		c.fixture.await(t, "us-1 away", func() bool { return c.status(t, "us-1").State == pool.NodeRestarting })
		c.hosts["us-1"].start(t)
		c.await(t, "us-1", pool.NodeReady)
	})
	t.Run("a region is lost", func(t *testing.T) {
		c.hosts["eu-1"].kill()
		c.hosts["eu-2"].kill()
		for i := range 5 {
			c.sign(t, account, l, []byte{3, byte(i)})
		}
		_, err := c.pool.Refresh(deadline(t, 500*time.Millisecond), pool.RefreshRequest{Account: account, Expose: l.expose,
			Recipients: c.recipients})
		var none *pool.NoEligibleNodeError
		if !errors.As(err, &none) || none.Region != "eu" || none.Domain != "eu" || !strings.Contains(err.Error(), `region "eu"`) || strings.Contains(err.Error(), "raise local") {
			t.Errorf("a refresh without a region: %v", err)
		}
		c.hosts["eu-1"].start(t)
		c.hosts["eu-2"].start(t)
		c.await(t, "eu-1", pool.NodeReady)
		c.await(t, "eu-2", pool.NodeReady)
	})
	t.Run("a node hangs", func(t *testing.T) {
		process := c.hosts["ap-1"].cmd.Process
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		c.fixture.await(t, "ap-1 out of use", func() bool { return c.status(t, "ap-1").LastError != "" })
		for i := range 3 {
			c.sign(t, account, l, []byte{4, byte(i)})
		}
		if err := process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		c.await(t, "ap-1", pool.NodeReady)
	})
	t.Run("a node drains", func(t *testing.T) {
		cmd := c.hosts["us-2"].cmd
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			c.sign(t, account, l, []byte{5, byte(i)})
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the daemon did not end well: %v", err)
		}
		c.hosts["us-2"].cmd = nil
		c.hosts["us-2"].start(t)
		c.await(t, "us-2", pool.NodeReady)
	})
	t.Run("refresh keeps homes", func(t *testing.T) {
		c.placed(t, account, l)
		homes := account.Homes
		account = c.refresh(t, account, l, nil)
		l = &ledger{by: maps.Clone(account.Exposures)}
		if !slices.Equal(account.Homes, homes) || account.Record.Epoch != 2 {
			t.Fatalf("homes %v, were %v", account.Homes, homes)
		}
		c.sign(t, account, l, []byte("after refresh"))
		c.placed(t, account, l)
	})
	t.Run("node keys", func(t *testing.T) {
		if err := c.pool.RewrapNodeKeys(deadline(t, 5*time.Second), "eu-1"); err != nil {
			t.Error(err)
		}
		k, _ := c.store.NodeKeys(t.Context(), "eu-1")
		if k == nil || k.Identity != c.hosts["eu-1"].remote.Identity || len(k.IdentityEnvelope) > 0 {
			t.Errorf("stored: %+v", k)
		}
		if err := c.pool.RewrapNodeKeys(deadline(t, 5*time.Second), "eu-9"); !errors.Is(err, pool.ErrUnknownNode) {
			t.Error(err)
		}
	})
	t.Run("a node is taken away and comes back", func(t *testing.T) {
		all := c.settings.Remote
		c.settings.Remote = slices.DeleteFunc(slices.Clone(all), func(r pool.RemoteNode) bool { return r.ID == "ap-2" })
		c.apply(t)
		c.waitReady(t, 5)
		c.settings.Remote = all
		c.apply(t)
		c.waitReady(t, 6)
	})
	t.Run("not what was enrolled", func(t *testing.T) {
		for what, change := range map[string]func(*pool.RemoteNode){
			"identity": func(r *pool.RemoteNode) { r.Identity[0] ^= 1 },
			"region":   func(r *pool.RemoteNode) { r.Region = "us" },
			"pin":      func(r *pool.RemoteNode) { r.Pin[0] ^= 1 },
		} {
			good := slices.Clone(c.settings.Remote)
			change(&c.settings.Remote[0])
			before := c.status(t, "us-1").Since
			c.apply(t)
			s := c.await(t, "eu-1", pool.NodeFailed)
			if !strings.Contains(s.LastError, what) {
				t.Errorf("%s: %s", what, s.LastError)
			}
			if !c.status(t, "us-1").Since.Equal(before) {
				t.Errorf("%s: another node was started again", what)
			}
			c.settings.Remote = good
			c.apply(t)
			c.await(t, "eu-1", pool.NodeReady)
		}
	})
}

// TestMoveDomain: an account made on two tokens moves to others. Meanwhile and after
// it each share is sealed to one token only, and in the end the old nodes know
// nothing.
func TestMoveDomain(t *testing.T) {
	c := startCluster(t, 2, "eu-1 eu eu", "eu-2 eu eu", "us-1 us us", "us-2 us us", "us-3 us us")
	account := c.create(t, mpc.Ed25519, 2, 3, hsm.DefaultDomain, "eu")
	for _, h := range account.Homes {
		if h != (mpc.Home{Domain: hsm.DefaultDomain, Region: "here"}) && h != (mpc.Home{Domain: "eu", Region: "eu"}) {
			t.Fatalf("homes %v", account.Homes)
		}
	}
	l := &ledger{by: maps.Clone(account.Exposures)}
	c.sign(t, account, l, []byte("one"))
	us := mpc.Home{Domain: "us", Region: "us"}
	target := []mpc.Home{us, us, us}
	moved := c.refresh(t, account, l, target)
	if !slices.Equal(moved.Homes, target) || len(moved.Exposures) != 6 {
		t.Fatalf("homes %v, %d exposures", moved.Homes, len(moved.Exposures))
	}
	domains(t, moved)
	l = &ledger{by: maps.Clone(moved.Exposures)}
	c.sign(t, moved, l, []byte("two"))
	again := c.refresh(t, moved, l, nil)
	domains(t, again)
	l = &ledger{by: maps.Clone(again.Exposures)}
	c.placed(t, again, l)
	if len(again.Exposures) != 3 || again.Record.Epoch != 3 {
		t.Fatalf("epoch %d, exposures %v", again.Record.Epoch, again.Exposures)
	}
	c.sign(t, again, l, []byte("three"))

	_, err := c.pool.Create(deadline(t, 5*time.Second), pool.CreateRequest{AccountID: mpc.AccountID{8}, Algorithm: mpc.Ed25519,
		Threshold: 2, Shares: 3, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash(), Domains: []string{"eu"}})
	var few *pool.TooFewNodesError
	if !errors.As(err, &few) || few.Configured != 2 || !strings.Contains(err.Error(), "wrapping domain eu") {
		t.Errorf("three shares in a domain of two nodes: %v", err)
	}
	// Too few nodes for it: nothing happens, and it says where.
	again.Exposures = l.copy()
	eu := mpc.Home{Domain: "eu", Region: "eu"}
	_, err = c.pool.Refresh(deadline(t, 5*time.Second), pool.RefreshRequest{Account: again, Expose: l.expose,
		Recipients: c.recipients, Homes: []mpc.Home{eu, eu, eu}})
	var none *pool.NoEligibleNodeError
	if !errors.As(err, &none) || none.Region != "eu" {
		t.Errorf("three shares for two nodes: %v", err)
	}
	r, err := c.pool.Rewrap(deadline(t, 10*time.Second), pool.RewrapRequest{Account: again, Recipients: c.recipients, Expose: l.expose})
	if err != nil || len(r.Shares) != 3 {
		t.Fatalf("rewrap: %v", err)
	}
	again.Shares = r.Shares
	domains(t, again)
	c.sign(t, again, l, []byte("four"))
}

// domains checks that each share is sealed to the domain of its home alone.
func domains(t *testing.T, a mpc.Account) {
	t.Helper()
	for k, s := range a.Shares {
		seals, err := hsm.Seals(s.Envelope)
		if err != nil || len(seals) != 1 || seals[0].Domain != a.Homes[k].Domain {
			t.Errorf("share %d of %v is sealed to %v, %v", k+1, a.Homes, seals, err)
		}
	}
}

// TestRemoteECDSA: nodes on other hosts make and check auxiliary keys, keep
// presignatures, and one that was started anew goes on with the stored keys.
func TestRemoteECDSA(t *testing.T) {
	if testing.Short() {
		t.Skip("making auxiliary keys takes minutes under the race detector; this test runs without -short")
	}
	c := startCluster(t, 1, "eu-1 eu eu", "us-1 us us")
	account := c.create(t, mpc.ECDSASecp256k1, 2, 3)
	l := &ledger{by: maps.Clone(account.Exposures)}
	c.waitAuxiliary(t)
	if r := c.sign(t, account, l, []byte("in full")); r.Presigned {
		t.Error("presigned")
	}
	account.Exposures = l.copy()
	for range 3 {
		if err := c.pool.Presign(deadline(t, time.Minute), pool.PresignRequest{Account: account, Lifetime: time.Minute, Expose: l.expose}); err != nil {
			t.Fatal(err)
		}
	}
	if r := c.sign(t, account, l, []byte("presigned")); !r.Presigned {
		t.Error("no presignature was used")
	}
	before, _ := c.store.NodeKeys(t.Context(), "eu-1")
	if before.Aux == nil || len(before.IdentityEnvelope) > 0 {
		t.Fatalf("stored for eu-1: %+v", before)
	}
	if err := c.pool.RewrapNodeKeys(deadline(t, 5*time.Second), "eu-1"); err != nil {
		t.Error(err)
	}
	c.hosts["eu-1"].kill()
	c.hosts["eu-1"].start(t)
	c.fixture.await(t, "eu-1 again", func() bool { return c.status(t, "eu-1").Restarts > 0 && c.status(t, "eu-1").State == pool.NodeReady })
	c.waitAuxiliary(t)
	after, _ := c.store.NodeKeys(t.Context(), "eu-1")
	if after.Aux.Generation != before.Aux.Generation || after.Identity != before.Identity {
		t.Error("a node that was started again made new auxiliary keys")
	}
	for i := range 3 {
		c.sign(t, account, l, []byte{9, byte(i)})
	}
	c.placed(t, account, l)
}
