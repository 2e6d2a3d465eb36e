package backend

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// simOffer is what a simulated node remembers of a key that it has made.
type simOffer struct {
	index   mpc.Index
	purpose [32]byte
}

func (p *simProc) PrepareRelease(_ context.Context, r *nodepb.PrepareReleaseRequest, _ ...grpc.CallOption) (*nodepb.PrepareReleaseReply, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	p.world.mu.Lock()
	fault := p.world.offerFaults[p.name]
	delete(p.world.offerFaults, p.name)
	p.world.mu.Unlock()
	if fault {
		return &nodepb.PrepareReleaseReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_BUSY, Text: "simulated"}}, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := custody.Offer{Index: mpc.Index(r.GetIndex()), PublicKey: make([]byte, 32), Expires: time.Now().Add(custody.OfferLifetime).Truncate(time.Millisecond),
		Node: mpc.NodeIdentity(p.identity.Public().(ed25519.PublicKey))}
	rand.Read(o.ReleaseID[:])
	rand.Read(o.PublicKey)
	custody.SignOffer(p.identity, [32]byte(r.GetPurpose()), &o)
	if p.offers == nil {
		p.offers = map[custody.ReleaseID]simOffer{}
	}
	p.offers[o.ReleaseID] = simOffer{o.Index, [32]byte(r.GetPurpose())}
	return &nodepb.PrepareReleaseReply{ReleaseId: o.ReleaseID[:], PublicKey: o.PublicKey, ExpiresUnixMs: uint64(o.Expires.UnixMilli()), Signature: o.Signature}, nil
}

// released plays a node's check of a release: by ID, once, for this very session.
func (p *simProc) released(s *nodepb.Start) *nodepb.Failure {
	refuse := func(text string) *nodepb.Failure {
		return &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: text}
	}
	if s.GetOperation() == "keygen" {
		return nil
	}
	record, err := mpc.ParsePublicRecord(s.GetRecord())
	switch {
	case err != nil:
		return refuse(err.Error())
	case !record.HasCustody() && len(s.GetRelease())+len(s.GetReleaseId()) > 0:
		return refuse("a release for an account without custody")
	case !record.HasCustody():
		return nil
	case len(s.GetReleaseId()) != 16:
		return refuse("no release")
	}
	p.mu.Lock()
	o, ok := p.offers[custody.ReleaseID(s.GetReleaseId())]
	delete(p.offers, custody.ReleaseID(s.GetReleaseId()))
	p.mu.Unlock()
	purpose := custody.Purpose{Operation: s.GetOperation(), Record: record.Hash(), Input: s.GetInput(), MessageType: s.GetMessageType(),
		HashAlgorithm: s.GetHashAlgorithm(), DerivationPath: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak(), NextCustody: s.GetCustodyKey()}
	for _, m := range s.GetMembers() {
		purpose.Signers = append(purpose.Signers, custody.Signer{Index: mpc.Index(m.GetIndex()), Node: mpc.NodeIdentity(m.GetIdentity())})
	}
	hash := purpose.Hash()
	if !ok || o.purpose != hash || uint32(o.index) != s.GetSelf() || !bytes.Equal(s.GetRelease(), fakeRelease(hash, o.index)) {
		return refuse("the release is not for this")
	}
	return nil
}

// custodyOp begins an operation, has things happen, and finishes it. It reports
// whether that succeeded. With stable nodes and nothing happening it must when the
// rule allows it.
func (s *sim) custodyOp() {
	name := s.owned[s.rng.IntN(len(s.owned))]
	s.settleNodes()
	data, needed := map[string]any{"operation": "sign", "input": "aGVsbG8="}, 0
	possible, a := s.reachable(name)
	if needed = a.Record.Threshold; s.rng.IntN(3) == 0 {
		data, needed = map[string]any{"operation": "refresh"}, a.Record.Shares
	}
	s.note("%v with %s (epoch %d, reachable %d of %d)", data["operation"], name, a.Record.Epoch, possible, needed)
	within := patience
	if possible < needed {
		within = 30 * time.Millisecond
	}
	if s.rng.IntN(4) == 0 {
		s.world.mu.Lock()
		s.world.offerFaults[s.node()] = true // a spare may take its place
		s.world.mu.Unlock()
	}
	s.count["custody operations"]++
	begun, err := s.request(logical.UpdateOperation, "custody/"+name+"/begin", data, within)
	switch {
	case err == nil && possible < needed:
		s.fatal("%s began although only %d of %d shares can be reached", name, possible, needed)
	case err != nil && possible >= needed && !s.crash.isDead():
		s.fatal("%s cannot begin although the rule allows it: %v", name, err)
	case err != nil:
		s.count["refused custody operations"]++
		return
	}
	quiet := false
	switch s.rng.IntN(6) {
	case 0:
		victim := s.node()
		s.note("%s dies before the finish", victim)
		s.world.kill(victim)
	case 1:
		s.world.mu.Lock()
		faults := []simFault{faultStart, faultHello, faultHSM, faultRefuses}
		s.world.faults[s.node()] = faults[s.rng.IntN(len(faults))]
		s.world.mu.Unlock()
	case 2:
		s.crash.mu.Lock()
		s.crash.left, s.crash.late = s.rng.IntN(2), s.rng.IntN(2) == 0
		s.crash.mu.Unlock()
	case 3:
		s.note("%s is rewrapped meanwhile", name)
		_, err := s.request(logical.UpdateOperation, "wrapping-keys/rotate", nil, 3*time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		_, rewrapErr := s.m.b.RewrapAccount(ctx, name)
		cancel()
		s.note("rotate: %v, rewrap: %v", err, rewrapErr)
	default:
		quiet = true
	}
	purpose, limit := begun["purpose"], 3*time.Second
	if quiet {
		limit = patience
	}
	releases := releasesFor(s.t, begun)
	_, err = s.request(logical.UpdateOperation, "custody/"+name+"/finish", map[string]any{"release": begun["release"], "releases": toAny(releases)}, limit)
	s.note("finish of %v: %v", purpose, err)
	switch {
	case err == nil:
		s.count["custody successes"]++
	case quiet && !s.crash.isDead():
		s.fatal("%s does not finish: %v", name, err)
	default:
		s.count["custody failures"]++
	}
	if s.crash.isDead() {
		s.restart()
	}
	s.crash.mu.Lock()
	s.crash.left = 1 << 30
	s.crash.mu.Unlock()
	s.world.mu.Lock()
	clear(s.world.offerFaults)
	s.world.mu.Unlock()
}

// toAny makes a list as JSON makes it.
func toAny(list []map[string]any) []any {
	var out []any
	for _, e := range slices.Clone(list) {
		out = append(out, maps.Clone(e))
	}
	return out
}
