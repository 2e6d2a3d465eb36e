//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// remoteTest is a cluster of two nodes in each of three regions and the ledger
// that holds it to its promises.
type remoteTest struct {
	*remoteCluster
	ledger *ledger
	client *client
}

// homeRegion is Vault's; lostRegion is what the tests cut off.
const (
	homeRegion = "eu"
	lostRegion = "ap"
)

var allAlgorithms = []string{bip340, ed25519, ecdsaCurve, ecdsaP256}

// TestLabCluster takes one cluster through what happens to nodes on other
// hosts. The steps build on each other's cluster, which each leaves whole, and
// use accounts of their own.
func TestLabCluster(t *testing.T) {
	needCluster(t)
	began := time.Now()
	cluster := newRemoteCluster(t, netlab.Config{Seed: uint64(began.UnixNano()), Paths: betweenRegions(far)}, homeRegion,
		"eu-1@eu", "eu-2@eu", "us-1@us", "us-2@us", "ap-1@ap", "ap-2@ap")
	r := &remoteTest{remoteCluster: cluster, ledger: newLedger(), client: newClient(t, cluster.Vault, cluster.path)}
	// Nothing but the steps may refresh, or renew keys, in these minutes.
	r.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "aux_period": "24h"})
	t.Logf("six nodes in three regions after %v", time.Since(began).Round(time.Millisecond))
	r.waitAuxiliary(t)
	t.Logf("auxiliary keys after %v", time.Since(began).Round(time.Millisecond))

	for _, step := range []struct {
		name string
		do   func(*remoteTest, *testing.T)
	}{
		{"Accounts", (*remoteTest).accounts},
		{"Storage", (*remoteTest).storage},
		{"SlowNode", (*remoteTest).slowNode},
		{"DeadNode", (*remoteTest).deadNode},
		{"LostRegion", (*remoteTest).lostRegion},
		{"CutInCreation", (*remoteTest).cutInCreation},
		{"CutInRefresh", (*remoteTest).cutInRefresh},
		{"DrainedNode", (*remoteTest).drainedNode},
		{"Growth", (*remoteTest).growth},
		{"KilledVault", (*remoteTest).killedVault},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			started := time.Now()
			step.do(r, t)
			r.awaitReady(t, true, r.names("")...)
			t.Logf("%s took %v", step.name, time.Since(started).Round(time.Millisecond))
		}) {
			return // the next step needs a whole cluster
		}
	}
	// With all regions next to each other: this is about the accounts.
	r.lab.SetPath(r.lab.Sites(nil), r.lab.Sites(nil), netlab.Path{})
	good := r.ledger.verifyAll(t.Context(), r.client, 5*time.Minute)
	t.Logf("%d of %d accounts opened all shares and signed", good, len(r.ledger.names()))
	r.checkWhole(t, r.ledger.names())
	for _, lost := range r.ledger.losses() {
		t.Error("lost:", lost)
	}
}

// create makes an account of the ledger's, 2 of 3.
func (r *remoteTest) create(t *testing.T, name, algorithm string) {
	t.Helper()
	if err := r.ledger.create(t.Context(), r.client, name, algorithm, nil); err != nil {
		t.Fatalf("creating %s: %v", name, err)
	}
}

// sign has an account sign at once, without a second try by the client.
func (r *remoteTest) sign(t *testing.T, name, message string) {
	t.Helper()
	if err := r.ledger.sign(t.Context(), r.client, name, []byte(message)); err != nil {
		t.Fatalf("%s does not sign %q: %v", name, message, err)
	}
}

// awaitSignature tries until an account signs and returns how long that took.
func (r *remoteTest) awaitSignature(t *testing.T, name, message string) time.Duration {
	t.Helper()
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := retry(ctx, func() error { return r.ledger.sign(ctx, r.client, name, []byte(message)) }); err != nil {
		t.Fatalf("%s does not sign %q for a minute: %v", name, message, err)
	}
	return time.Since(started)
}

func (r *remoteTest) refresh(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before := r.ledger.promised(name).epoch
	if err := retry(ctx, func() error { return r.ledger.refresh(ctx, r.client, name) }); err != nil {
		t.Fatalf("%s is not refreshed for a minute: %v", name, err)
	}
	if now := r.ledger.promised(name).epoch; now <= before {
		t.Errorf("%s is in epoch %d after its refresh in epoch %d", name, now, before)
	}
}

// accounts: all algorithms are made, sign, and are refreshed over delay and
// loss, and the answer says what the spread of their shares is good for.
func (r *remoteTest) accounts(t *testing.T) {
	for _, algorithm := range allAlgorithms {
		name := "all-" + algorithm
		r.create(t, name, algorithm)
		account := r.read(t, "accounts/"+name)
		placement, _ := account["placement"].(map[string]any)
		if integer(placement, "regions") != 3 || integer(placement, "most_in_region") != 1 ||
			text(placement, "region_compromise") != "safe" || placement["region_loss"] != "survives" {
			t.Errorf("%s: placement %v, want one share in each of three regions", name, placement)
		}
		if homes, _ := placement["homes"].([]any); len(homes) != 3 {
			t.Errorf("%s: homes %v, want three", name, placement["homes"])
		}
		r.sign(t, name, "first")
		r.refresh(t, name)
		r.sign(t, name, "after the refresh")
	}
}

// storage: a share in Vault's storage is sealed to the domain of one region, so
// that a region's token and a copy of the storage open one share of three.
func (r *remoteTest) storage(t *testing.T) {
	regions := []string{"eu", "us", "ap"}
	for _, name := range r.ledger.names() {
		var stored struct {
			Current struct {
				Shares [][]byte `json:"shares"`
			} `json:"current"`
		}
		if err := json.Unmarshal(r.RawRead(t, r.path, "accounts/"+name), &stored); err != nil {
			t.Fatal(err)
		}
		var sealedTo []string
		for i, envelope := range stored.Current.Shares {
			// The envelope names its domains in clear; see hsm's encoding.
			domains := slices.DeleteFunc(slices.Clone(regions), func(region string) bool {
				return !bytes.Contains(envelope, []byte(domainOf(region)))
			})
			if len(domains) != 1 || bytes.Contains(envelope, []byte("default")) {
				t.Errorf("%s: share %d is sealed to the domains of %v, want one", name, i+1, domains)
			}
			sealedTo = append(sealedTo, domains...)
		}
		slices.Sort(sealedTo)
		if !slices.Equal(sealedTo, []string{"ap", "eu", "us"}) {
			t.Errorf("%s: its shares are sealed to %v, want each region once", name, sealedTo)
		}
	}
}

// slowNode: with a node half a second away, signatures are made by others.
func (r *remoteTest) slowNode(t *testing.T) {
	r.create(t, "slow", ed25519)
	all := r.lab.Sites(nil)
	usual := netlab.Path{Delay: 250 * time.Millisecond}
	slow := []*netlab.Site{r.sites["us-1"], r.sites["us-2"]}
	r.lab.SetPath(slow, all, usual)
	defer func() {
		for _, s := range all {
			for _, other := range all {
				r.lab.SetPath([]*netlab.Site{s}, []*netlab.Site{other}, betweenRegions(far)(s, other))
			}
		}
	}()
	// Until the pool has measured it.
	r.await(t, time.Minute, "round trip of 400 ms or more to us-1 and us-2", func() bool {
		nodes := r.engine.nodes(t)
		return milliseconds(nodes["us-1"], "rtt_ms") >= 400*time.Millisecond && milliseconds(nodes["us-2"], "rtt_ms") >= 400*time.Millisecond
	})
	used, signatures := 0, 20
	for i := range signatures {
		answer, _, err := r.client.sign(t.Context(), "slow", fmt.Appendf(nil, "slow %d", i))
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(signers(answer), func(n string) bool { return n == "us-1" || n == "us-2" }) {
			used++
		}
	}
	// Chosen at random, two of three regions hold a slow one 13 times of 20.
	if used > 4 {
		t.Errorf("%d of %d signatures were made with a node that is half a second away, although the others suffice", used, signatures)
	}
	t.Logf("%d of %d signatures used a slow node", used, signatures)
}

// deadNode: a daemon is killed. Signing goes on, a refresh takes the region's
// other node, and the daemon is back after its start.
func (r *remoteTest) deadNode(t *testing.T) {
	r.create(t, "dead", bip340)
	r.sign(t, "dead", "before")
	node := r.nodes["us-1"]
	node.Kill9(t)
	first := r.awaitSignature(t, "dead", "just after")
	seen := r.awaitReady(t, false, "us-1")
	t.Logf("a killed daemon: the next signature after %v, seen after %v more", first, seen)
	for i := range 5 {
		r.sign(t, "dead", fmt.Sprint("without us-1, ", i))
	}
	r.refresh(t, "dead")
	r.sign(t, "dead", "refreshed without us-1")
	node.Start(t)
	t.Logf("ready %v after its start", r.awaitReady(t, true, "us-1"))
}

// lostRegion: a region cannot be reached. What survives goes on in seconds;
// what does not says why; all of it works when the region is back.
func (r *remoteTest) lostRegion(t *testing.T) {
	for i, algorithm := range allAlgorithms {
		r.create(t, fmt.Sprint("region-", i), algorithm)
	}
	gone, rest := r.region(lostRegion)
	r.lab.Cut(gone, rest)
	defer r.lab.Mend(gone, rest)
	first := r.awaitSignature(t, "region-0", "just after the cut")
	seen := r.awaitReady(t, false, r.names(lostRegion)...)
	t.Logf("a region cut off: the next signature after %v, all of it seen after %v more", first, seen)
	for i := range allAlgorithms {
		r.sign(t, fmt.Sprint("region-", i), "without the region")
	}
	_, err := r.client.write(t.Context(), "accounts/region-0/refresh", nil)
	// It says which share it waits for, and which nodes could serve it.
	checkRefusal(t, "a refresh without a region, which holds one of the shares", err, http.StatusServiceUnavailable,
		"share ", "region \""+lostRegion+"\"", lostRegion+"-1", lostRegion+"-2")
	r.lab.Mend(gone, rest)
	t.Logf("ready %v after the region came back", r.awaitReady(t, true, r.names(lostRegion)...))
	r.refresh(t, "region-0")
	r.sign(t, "region-0", "with the region")
}

// cutInCreation: a region is cut off while accounts are being made, which cuts
// each at another point. An account is there and signs, or it is not there.
func (r *remoteTest) cutInCreation(t *testing.T) {
	refused := r.cutDuring(t, func(i int) error {
		return r.ledger.create(t.Context(), r.client, fmt.Sprint("cut-creation-", i), []string{ed25519, bip340}[i%2], nil)
	})
	adopted, err := r.ledger.adoptUnanswered(t.Context(), r.client)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d creations were refused; %d of these accounts are there", refused, adopted)
	for _, name := range r.ledger.names() {
		if strings.HasPrefix(name, "cut-creation-") {
			r.awaitSignature(t, name, "after the cut")
		}
	}
	r.create(t, "after-cut", ed25519)
}

// cutInRefresh does the same to refreshes.
func (r *remoteTest) cutInRefresh(t *testing.T) {
	for i := range cutAttempts {
		r.create(t, fmt.Sprint("cut-refresh-", i), []string{ed25519, bip340}[i%2])
	}
	refused := r.cutDuring(t, func(i int) error {
		return r.ledger.refresh(t.Context(), r.client, fmt.Sprint("cut-refresh-", i))
	})
	if refused == 0 {
		t.Error("every refresh succeeded although a share's region was cut off")
	}
	for i := range cutAttempts {
		name := fmt.Sprint("cut-refresh-", i)
		r.awaitSignature(t, name, "after the cut")
		r.refresh(t, name)
		r.sign(t, name, "after the refresh that followed")
	}
}

// cutAttempts are begun with pauses between them before a cut.
const cutAttempts = 12

// cutDuring makes attempts, each begun a little after the one before, and cuts
// a region off while some of them are under way. It returns how many failed:
// none has to, since the pool may try again without the region.
func (r *remoteTest) cutDuring(t *testing.T, attempt func(i int) error) (refused int) {
	t.Helper()
	gone, rest := r.region(lostRegion)
	defer r.lab.Mend(gone, rest)
	errs := make([]error, cutAttempts)
	var attempts sync.WaitGroup
	ended := make(chan struct{}, cutAttempts)
	for i := range cutAttempts {
		attempts.Go(func() {
			errs[i] = attempt(i)
			ended <- struct{}{}
		})
		if i == cutAttempts/2 {
			<-ended // one is whole, whatever the machine's speed
		}
		time.Sleep(40 * time.Millisecond)
	}
	before := r.lab.Counts().Cut
	r.lab.Cut(gone, rest)
	underWay := cutAttempts - 1 - len(ended)
	began := time.Now()
	attempts.Wait()
	took := time.Since(began)
	r.awaitReady(t, false, r.names(lostRegion)...)
	r.lab.Mend(gone, rest)
	r.awaitReady(t, true, r.names(lostRegion)...)
	if lost := r.lab.Counts().Cut - before; underWay == 0 || lost == 0 {
		t.Errorf("%d of %d attempts were under way and %d packets met the cut: it was not in their middle", underWay, cutAttempts, lost)
	}
	for _, err := range errs {
		if err != nil {
			refused++
			t.Logf("refused: %s", oneLine(err.Error()))
		}
	}
	t.Logf("%d of %d were under way at the cut and had ended %v later, %d of them refused", underWay, cutAttempts, took.Round(time.Millisecond), refused)
	return refused
}

// drainedNode: nodes that end on SIGTERM finish what they do, so that no
// client notices, one node after the other.
func (r *remoteTest) drainedNode(t *testing.T) {
	r.create(t, "drained", ed25519)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var mu sync.Mutex
	signed, failed := 0, []error(nil)
	for id := range 2 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				err := r.ledger.sign(t.Context(), r.client, "drained", fmt.Appendf(nil, "client %d, %d", id, i))
				mu.Lock()
				if err != nil {
					failed = append(failed, err)
				} else {
					signed++
				}
				mu.Unlock()
			}
		})
	}
	for _, name := range []string{"us-1", "us-2", "eu-1"} {
		if code := r.nodes[name].Terminate(t); code != 0 {
			t.Errorf("%s ends with %d on SIGTERM", name, code)
		}
		r.nodes[name].Start(t)
		r.awaitReady(t, true, name)
	}
	cancel()
	clients.Wait()
	if signed == 0 {
		t.Error("nothing was signed meanwhile")
	}
	for _, err := range failed {
		t.Errorf("a signature failed while nodes were restarted: %v", err)
	}
	t.Logf("%d signatures while three nodes were restarted", signed)
}

// killedVault: the coordinator is killed. A new one attaches to the same nodes
// without any of them being restarted.
func (r *remoteTest) killedVault(t *testing.T) {
	r.create(t, "vault", ed25519)
	r.create(t, "vault-ecdsa", ecdsaP256)
	for _, way := range []string{"killed", "sealed"} {
		if way == "killed" {
			r.Kill9(t)
			r.Restart(t)
		} else {
			r.Seal(t)
			r.Unseal(t)
		}
		first := r.awaitSignature(t, "vault", "after Vault was "+way)
		all := r.awaitReady(t, true, r.names("")...)
		t.Logf("Vault %s: the next signature after %v, all nodes after %v more", way, first, all)
		r.refresh(t, "vault")
	}
	// Auxiliary keys are the nodes' own, and are known to the new coordinator.
	r.sign(t, "vault-ecdsa", "after Vault was sealed")
}
