package cli

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/secret"
)

// nodes stands for an account of two of three with custody: real envelopes, offers
// and releases, and a server in between that can lie.
type nodes struct {
	t         *testing.T
	owner     *ecdh.PrivateKey
	record    *mpc.PublicRecord
	envelopes [][]byte
	parts     []*secret.Bytes
	keys      []ed25519.PrivateKey
	offers    map[string]map[mpc.Index]*ecdh.PrivateKey

	due     bool
	lie     func(asked *custody.Purpose) // what the nodes are told instead
	hide    func(o map[string]any)       // what the client is told instead
	again   int                          // so many finishes fail with "begin again"
	forge   func(answer map[string]any)  // what is answered instead of the signature
	account ed25519.PrivateKey           // whole, here
	begins  []string
	opened  int
	purpose map[string]custody.Purpose
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	n := &nodes{t: t, owner: p256(t), offers: map[string]map[mpc.Index]*ecdh.PrivateKey{}, purpose: map[string]custody.Purpose{}}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n.account = private
	n.record = &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3, PublicKey: public,
		PublicShares: [][]byte{make([]byte, 32), make([]byte, 32), make([]byte, 32)}, Epoch: 1, EpochID: mpc.EpochID{1},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash(), Custody: mpc.CustodyHash(n.owner.PublicKey().Bytes())}
	for i := range 3 {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		n.keys = append(n.keys, priv)
		wrapping := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, PublicKey: p256(t).PublicKey().Bytes()}
		e, part, err := hsm.SealCustody(hsm.ShareContext(uint8(i+1), n.record.Hash()), secret.Copy([]byte("share")), []hsm.WrappingKey{wrapping}, n.owner.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		n.envelopes, n.parts = append(n.envelopes, e), append(n.parts, part)
	}
	return n
}

func p256(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (n *nodes) identity(i int) mpc.NodeIdentity {
	return mpc.NodeIdentity(n.keys[i].Public().(ed25519.PublicKey))
}

// Known implements roster.
func (n *nodes) Known(node mpc.NodeIdentity) error {
	for i := range n.keys {
		if n.identity(i) == node {
			return nil
		}
	}
	return errors.New("this home does not know it")
}

// Call implements keyholder.Caller.
func (n *nodes) Call(_ context.Context, op keyholder.Op, path string, in map[string]any, out any) error {
	switch {
	case op == keyholder.Write && path == "custody/gold/begin":
		return through(n.begin(in), out)
	case op == keyholder.Write && path == "custody/gold/finish":
		return n.finish(in, out)
	}
	return refuse(http.StatusForbidden, "not in a session")
}

func (n *nodes) begin(in map[string]any) map[string]any {
	var asked struct {
		Operation string `json:"operation"`
		Input     []byte `json:"input"`
		Kind      string `json:"message_type"`
	}
	if err := through(in, &asked); err != nil {
		n.t.Error(err)
	}
	n.begins = append(n.begins, asked.Operation)
	p := custody.Purpose{Operation: asked.Operation, Record: n.record.Hash()}
	members := []int{0, 2}
	if asked.Operation == custody.OpRefresh {
		members, p.NextCustody = []int{0, 1, 2}, n.owner.PublicKey().Bytes()
	} else {
		p.Input, p.MessageType, p.HashAlgorithm = asked.Input, asked.Kind, string(mpc.HashNone)
	}
	if n.lie != nil {
		n.lie(&p)
	}
	for _, i := range members {
		p.Signers = append(p.Signers, custody.Signer{Index: mpc.Index(i + 1), Node: n.identity(i)})
	}
	release := randomHexID()
	n.offers[release], n.purpose[release] = map[mpc.Index]*ecdh.PrivateKey{}, p
	var signers []map[string]any
	for _, i := range members {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			n.t.Error(err)
		}
		o := custody.Offer{ReleaseID: custody.ReleaseID{byte(i), 7}, Index: mpc.Index(i + 1), Node: n.identity(i), PublicKey: key.PublicKey().Bytes(), Expires: time.UnixMilli(time.Now().Add(time.Minute).UnixMilli())}
		custody.SignOffer(n.keys[i], p.Hash(), &o)
		n.offers[release][o.Index] = key
		signers = append(signers, map[string]any{"index": o.Index, "node": "local", "identity": o.Node.String(), "release_id": hex.EncodeToString(o.ReleaseID[:]),
			"public_key": o.PublicKey, "expires_unix_ms": o.Expires.UnixMilli(), "signature": o.Signature, "envelope": n.envelopes[i]})
	}
	hash := p.Hash()
	answer := map[string]any{"release": release, "record": n.record.Marshal(), "purpose": hash[:], "signers": signers, "refresh_due": n.due}
	if n.hide != nil {
		n.hide(answer)
	}
	return answer
}

func (n *nodes) finish(in map[string]any, out any) error {
	release := in["release"].(string)
	p := n.purpose[release]
	var all []struct {
		Index   mpc.Index `json:"index"`
		Release []byte    `json:"release"`
	}
	if err := json.Unmarshal([]byte(in["releases"].(string)), &all); err != nil || len(all) != len(p.Signers) {
		return refuse(http.StatusBadRequest, "releases")
	}
	for _, x := range all {
		o := custody.Offer{ReleaseID: custody.ReleaseID{byte(x.Index - 1), 7}, Index: x.Index, Node: n.identity(int(x.Index - 1))}
		k2, err := custody.OpenRelease(n.offers[release][x.Index], o, p.Hash(), x.Release)
		if err != nil || !k2.Equal(n.parts[x.Index-1]) {
			n.t.Errorf("release for share %d: %v", x.Index, err)
		}
		n.opened++
	}
	if n.again > 0 {
		n.again--
		return refuse(http.StatusConflict, "a node ended: begin again")
	}
	if p.Operation == custody.OpRefresh {
		n.due = false
		return through(map[string]any{}, out)
	}
	answer := signedBy(n.account, p.Input)
	if n.forge != nil {
		n.forge(answer)
	}
	return through(answer, out)
}

// signedBy is the engine's answer with a signature in its usual format.
func signedBy(key ed25519.PrivateKey, message []byte) map[string]any {
	sig := ed25519.Sign(key, message)
	return map[string]any{"signature": text64(sig), "signature_hex": hex.EncodeToString(sig), "signature_format": "compact",
		"r": hex.EncodeToString(sig[:32]), "s": hex.EncodeToString(sig[32:]), "public_key": hex.EncodeToString(key.Public().(ed25519.PublicKey))}
}

func (n *nodes) custodian() *custodian {
	return &custodian{Caller: n, nodes: n, now: time.Now, pause: time.Millisecond}
}

func (n *nodes) sign() custodyTask {
	return custodyTask{what: "sign", account: "gold", id: hex.EncodeToString(n.record.AccountID[:]), key: n.owner, mayRefresh: true,
		purpose: custody.Purpose{Operation: custody.OpSign, Input: []byte("pay bob"), MessageType: "raw"}}
}

// want is what the owner of n's account expects: its key is pinned.
func (n *nodes) want(t *testing.T, p custody.Purpose) *wantedSignature {
	t.Helper()
	w, err := wantedFrom(&account{Name: "gold", Algorithm: string(n.record.Algorithm), PublicKeyHex: hex.EncodeToString(n.record.PublicKey)}, p, "")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestCustodian(t *testing.T) {
	for what, x := range map[string]struct {
		due    bool
		again  int
		begins string
		opened int
	}{
		"sign":                   {begins: "sign", opened: 2},
		"sign when a refresh is": {due: true, begins: "sign refresh sign", opened: 5},
		"a node ends":            {again: 2, begins: "sign sign sign", opened: 6},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNodes(t)
			n.due, n.again = x.due, x.again
			doc := signDoc{Name: "gold"}
			task := n.sign()
			if err := n.custodian().sign(t.Context(), task, n.want(t, task.purpose), &doc); err != nil || doc.Name != "gold" ||
				doc.Signature != signedBy(n.account, []byte("pay bob"))["signature"] {
				t.Fatalf("%+v, %v", doc, err)
			}
			if got := strings.Join(n.begins, " "); got != x.begins || n.opened != x.opened {
				t.Errorf("begun: %s, %d releases; want %s, %d", got, n.opened, x.begins, x.opened)
			}
		})
	}
	n := newNodes(t)
	n.again = maxBegins
	if err := n.custodian().run(t.Context(), n.sign(), nil); err == nil || len(n.begins) != maxBegins {
		t.Errorf("%d begins, %v", len(n.begins), err)
	}
}

// TestCustodianReleasesNothingElse: whatever the server says, nothing is released
// for anything but what the user asked for.
func TestCustodianReleasesNothingElse(t *testing.T) {
	stranger := newNodes(t)
	for what, x := range map[string]struct {
		lie  func(*custody.Purpose)
		hide func(map[string]any)
		task func(*custodyTask)
		says string
	}{
		"another message": {lie: func(p *custody.Purpose) { p.Input = []byte("pay eve") }, says: "something else"},
		"another hash":    {lie: func(p *custody.Purpose) { p.HashAlgorithm = "sha2-256" }, says: "something else"},
		"a child key":     {lie: func(p *custody.Purpose) { p.DerivationPath = "m/1" }, says: "something else"},
		"another operation": {lie: func(p *custody.Purpose) {
			*p = custody.Purpose{Operation: custody.OpRefresh, Record: p.Record, NextCustody: stranger.owner.PublicKey().Bytes()}
		}, says: "something else"},
		"the purpose hidden": {lie: func(p *custody.Purpose) { p.Input = []byte("pay eve") }, hide: func(o map[string]any) { o["purpose"] = make([]byte, 32) }, says: "something else"},
		"another account":    {task: func(t *custodyTask) { t.id = randomHexID() }, says: "another account"},
		"another public key": {task: func(t *custodyTask) { t.publicKey = make([]byte, 32) }, says: "another public key"},
		"another's nodes": {hide: func(o map[string]any) {
			for k, v := range stranger.begin(map[string]any{"operation": "sign", "input": text64([]byte("pay bob")), "message_type": "raw"}) {
				o[k] = v
			}
		}, says: "does not know"},
		"no record":           {hide: func(o map[string]any) { o["record"] = []byte("x") }, says: "record"},
		"a signer less":       {hide: func(o map[string]any) { o["signers"] = o["signers"].([]map[string]any)[:1] }, says: "something else"},
		"a bad identity":      {hide: func(o map[string]any) { o["signers"].([]map[string]any)[0]["identity"] = "zz" }, says: "form"},
		"another custody key": {task: func(t *custodyTask) { t.key = stranger.owner }, says: "custody"},
		"a forged signature": {hide: func(o map[string]any) {
			o["signers"].([]map[string]any)[0]["signature"] = make([]byte, 64)
		}, says: "not signed"},
		"another session key": {hide: func(o map[string]any) {
			o["signers"].([]map[string]any)[0]["public_key"] = make([]byte, 32)
		}, says: "not signed"},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNodes(t)
			n.lie, n.hide = x.lie, x.hide
			task := n.sign()
			if x.task != nil {
				x.task(&task)
			}
			err := n.custodian().run(t.Context(), task, nil)
			var r *refusal
			if !errors.As(err, &r) || !strings.Contains(err.Error(), x.says) || n.opened != 0 {
				t.Errorf("%d releases, %v", n.opened, err)
			}
		})
	}
	// In a refresh, a next custody key of the server's.
	n := newNodes(t)
	n.lie = func(p *custody.Purpose) { p.NextCustody = stranger.owner.PublicKey().Bytes() }
	if err := n.custodian().refresh(t.Context(), "gold", n.sign().id, n.owner, nil); err == nil || n.opened != 0 {
		t.Errorf("%d releases, %v", n.opened, err)
	}
}

func TestUsualHash(t *testing.T) {
	for _, x := range []struct {
		a           mpc.Algorithm
		kind, named string
		want        mpc.HashAlgorithm
	}{
		{mpc.Ed25519, "raw", "", mpc.HashNone},
		{mpc.ECDSASecp256k1, "raw", "", mpc.Hashes(mpc.ECDSASecp256k1)[0]},
		{mpc.ECDSASecp256k1, "raw", "keccak-256", mpc.HashKeccak256},
		{mpc.ECDSASecp256k1, "eip191", "", mpc.HashKeccak256},
		{mpc.ECDSASecp256k1, "digest", "", mpc.HashNone},
		{mpc.ECDSASecp256k1, "digest", "sha2-256", mpc.HashNone},
		{mpc.ECDSAP256, "digest", "sha2-384", mpc.HashSHA384},
	} {
		if got := usualHash(x.a, x.kind, x.named); got != string(x.want) {
			t.Errorf("%s %s %q: %s, want %s", x.a, x.kind, x.named, got, x.want)
		}
	}
}
