package node

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// fuzzNode is a node with fixed identities and no token: a Start is judged
// before any is asked.
func fuzzNode() (*Node, [3]ed25519.PrivateKey) {
	var keys [3]ed25519.PrivateKey
	n := New(Config{})
	if err := n.keys.set([]hsm.WrappingKey{fuzzKey()}); err != nil {
		panic(err)
	}
	if err := n.keys.noteBound(n.keys.all()[0]); err != nil {
		panic(err)
	}
	for k := range keys {
		keys[k] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(k + 1)}, 32))
		n.roster[name(uint32(k+1))] = mpc.NodeIdentity(keys[k].Public().(ed25519.PublicKey))
	}
	n.id, n.identity, n.setup, n.mountID = name(1), keys[0], true, [16]byte(mount)
	return n, keys
}

func fuzzMembers(n *Node, indices ...uint32) (out []*nodepb.Member) {
	for _, i := range indices {
		id := n.roster[name(i)]
		out = append(out, &nodepb.Member{Index: i, NodeId: name(i), Identity: id[:]})
	}
	return out
}

// fuzzRecord makes a key of two of three.
func fuzzRecord(f *testing.F, a mpc.Algorithm) *mpc.PublicRecord {
	parties := map[mpc.Index]*frost.KeyParty{}
	var queue []mpc.Message
	for i := mpc.Index(1); i <= 3; i++ {
		p, err := frost.NewKeygen(frost.KeyConfig{Self: i, Algorithm: a, Threshold: 2, Shares: 3, SessionID: mpc.SessionID{1}})
		if err != nil {
			f.Fatal(err)
		}
		out, err := p.Start()
		if err != nil {
			f.Fatal(err)
		}
		parties[i], queue = p, append(queue, out...)
	}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		for i, p := range parties {
			if i != m.From && (m.Broadcast || m.To == i) {
				out, err := p.Step(m)
				if err != nil {
					f.Fatal(err)
				}
				queue = append(queue, out...)
			}
		}
	}
	k, err := parties[1].Result()
	if err != nil {
		f.Fatal(err)
	}
	return &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: 2, Shares: 3, PublicKey: k.PublicKey,
		PublicShares: k.PublicShares, ChainCode: k.ChainCode, Epoch: 1, EpochID: mpc.EpochID{1},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
}

// FuzzPrepare: whatever a coordinator writes into a Start, the node judges it
// without panicking, and what it accepts is what all members sign: terms that
// name the operation, this node and its pinned peers, and nothing that differs
// has the same hash.
func FuzzPrepare(f *testing.F) {
	n, _ := fuzzNode()
	set := mpc.EmptySetHash()
	add := func(s *nodepb.Start) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		if _, _, err := n.prepare(context.Background(), s); err != nil && s.GetPresignature() == nil && !errors.Is(err, errAuxPending) {
			f.Fatalf("the seed %v is refused: %v", s.GetOperation(), err)
		}
		f.Add(b)
	}
	add(&nodepb.Start{Operation: opKeygen, Self: 1, Members: fuzzMembers(n, 1, 2, 3), AccountId: bytes.Repeat([]byte{1}, 16),
		Algorithm: string(mpc.Ed25519), Threshold: 2, Shares: 3, RecipientsHash: set[:], PolicyHash: set[:]})
	owner, err := ecdh.P256().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	add(&nodepb.Start{Operation: opKeygen, Self: 1, Members: fuzzMembers(n, 1, 2, 3), AccountId: bytes.Repeat([]byte{1}, 16),
		Algorithm: string(mpc.Ed25519), Threshold: 2, Shares: 3, RecipientsHash: set[:], PolicyHash: set[:], CustodyKey: owner.PublicKey().Bytes()})
	f.Add(custodySeed(f, n, owner))
	for _, a := range []mpc.Algorithm{mpc.BIP340Secp256k1, mpc.ECDSASecp256k1} {
		record := fuzzRecord(f, a).Marshal()
		add(&nodepb.Start{Operation: opRefresh, Self: 1, Members: fuzzMembers(n, 1, 2, 3), Record: record, Envelope: []byte("e")})
		hash := string(mpc.HashNone)
		if a.IsECDSA() {
			hash = string(mpc.HashSHA256)
		}
		members := fuzzMembers(n, 1, 3)
		for _, m := range members {
			m.AuxHash = make([]byte, 32)
		}
		sign := &nodepb.Start{Operation: opSign, Self: 1, Members: members, Record: record, Envelope: []byte("e"),
			Input: []byte("pay bob"), MessageType: string(mpc.MessageRaw), HashAlgorithm: hash, DerivationPath: "m/0/7"}
		add(sign)
		online := proto.Clone(sign).(*nodepb.Start)
		online.Presignature, online.Envelope, online.DerivationPath = make([]byte, 32), nil, ""
		add(online)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &nodepb.Start{}
		if proto.Unmarshal(b, s) != nil {
			return
		}
		task, terms, err := n.prepare(context.Background(), s)
		if err != nil {
			return
		}
		defer task.wipe()
		if r, err := mpc.ParsePublicRecord(s.GetRecord()); err == nil && r.HasCustody() {
			t.Fatal("a share with user custody would be used, and this node has made no offer")
		}
		again := proto.Clone(s).(*nodepb.Start)
		if inputsHash(n.mountID, again) != terms.Inputs || terms.Operation != s.GetOperation() || len(terms.Members) != len(s.GetMembers()) {
			t.Fatal("the terms are not those of the request")
		}
		for _, m := range terms.Members {
			if n.roster[m.NodeID] != m.Identity {
				t.Fatalf("%s is not pinned", m.NodeID)
			}
		}
		for _, change := range []func(){
			func() { again.Input = append(bytes.Clone(again.Input), 0) },
			func() { again.Record = append(bytes.Clone(again.Record), 0) },
			func() { again.AccountId = append(bytes.Clone(again.AccountId), 0) },
			func() { again.Threshold++ },
			func() { again.HashAlgorithm += "x" },
			func() { again.DerivationPath += "/0" },
			func() { again.CustodyKey = append(bytes.Clone(again.CustodyKey), 0) },
			func() { again.Presignature = append(bytes.Clone(again.Presignature), 0) },
		} {
			before := inputsHash(n.mountID, again)
			if change(); inputsHash(n.mountID, again) == before {
				t.Fatal("two requests have one hash")
			}
		}
	})
}

// custodySeed is a refresh with a release for an offer that there is not.
func custodySeed(f *testing.F, n *Node, owner *ecdh.PrivateKey) []byte {
	record := fuzzRecord(f, mpc.Ed25519)
	record.Custody = mpc.CustodyHash(owner.PublicKey().Bytes())
	b, err := proto.Marshal(&nodepb.Start{Operation: opRefresh, Self: 1, Members: fuzzMembers(n, 1, 2, 3), Record: record.Marshal(), Envelope: []byte("e"),
		CustodyKey: owner.PublicKey().Bytes(), ReleaseId: make([]byte, 16), Release: append([]byte{1}, make([]byte, custody.ReleaseSize-1)...)})
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzHellos: whatever the coordinator hands over as hellos, the node ends the
// handshake without panicking, and completes it only with what each peer
// signed.
func FuzzHellos(f *testing.F) {
	n, keys := fuzzNode()
	terms := session.Terms{Operation: opSign, Members: []session.Member{
		{Index: 1, NodeID: name(1), Identity: n.roster[name(1)]},
		{Index: 3, NodeID: name(3), Identity: n.roster[name(3)]},
	}}
	_, hello, err := session.Begin(terms, 3, keys[2])
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1}, []byte{})
	f.Add([]byte{}, []byte{0x0a, 0x00})
	f.Add(append(make([]byte, 127), 1), []byte{0x0a, 0x02, 0x08, 0x03})
	// The peer's hello with mask XORed over its nonce, key and signature (32, 32
	// and 64 bytes), then more in the encoding of protobuf.
	f.Fuzz(func(t *testing.T, mask, more []byte) {
		b := slices.Concat(hello.Nonce[:], hello.Ephemeral[:], hello.Signature[:])
		for k := range min(len(b), len(mask)) {
			b[k] ^= mask[k]
		}
		wire, err := proto.Marshal(&nodepb.Hellos{Hellos: []*nodepb.Hello{{Index: 3, Nonce: b[:32], Ephemeral: b[32:64], Signature: b[64:]}}})
		if err != nil {
			t.Fatal(err)
		}
		h := &nodepb.Hellos{}
		if proto.Unmarshal(append(wire, more...), h) != nil {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := &pipe{self: 1, ctx: ctx, in: make(chan *nodepb.SessionIn, 1), out: make(chan event, 1)}
		p.in <- &nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: h}}
		close(p.in)
		c, err := n.handshake(ctx, &conversation{stream: p, in: receive(ctx, p)}, terms, 1)
		if err != nil {
			if !errors.Is(err, session.ErrHello) {
				t.Fatal(err)
			}
			return
		}
		// The last hello of an index counts.
		var last *nodepb.Hello
		for _, x := range h.GetHellos() {
			if x.GetIndex() == 3 {
				last = x
			}
		}
		if c == nil || !bytes.Equal(last.GetNonce(), hello.Nonce[:]) || !bytes.Equal(last.GetEphemeral(), hello.Ephemeral[:]) {
			t.Fatal("the handshake took a hello that the peer did not sign")
		}
	})
}

// fuzzKey is a wrapping key that nobody holds.
func fuzzKey() hsm.WrappingKey {
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: priv.PublicKey().Bytes()}
}
