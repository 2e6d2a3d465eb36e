package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"strconv"
	"testing"

	"github.com/btcsuite/btcd/btcutil/hdkeychain"
	bytemare "github.com/bytemare/frost"
	"github.com/bytemare/secret-sharing/keys"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/frost"
)

// The tests here compare the engine with independent implementations. They use
// bytemare/frost from one goroutine only: it shares a hash state globally.

// asBytemare gives an account's shares to the other library. Scalars travel
// little-endian there.
func asBytemare(t *testing.T, e *engine) *bytemareAccount {
	t.Helper()
	group := bytemare.Ed25519.Group()
	key := group.NewElement()
	if err := key.Decode(e.record.PublicKey); err != nil {
		t.Fatal(err)
	}
	a := &bytemareAccount{}
	var public []*keys.PublicKeyShare
	for i := mpc.Index(1); int(i) <= e.record.Shares; i++ {
		little := bytes.Clone(e.shares[i].Expose())
		slices.Reverse(little)
		secret, point := group.NewScalar(), group.NewElement()
		if err := secret.Decode(little); err != nil {
			t.Fatal(err)
		}
		if err := point.Decode(e.record.PublicShare(i)); err != nil {
			t.Fatal(err)
		}
		share := &keys.KeyShare{Secret: secret, VerificationKey: key,
			PublicKeyShare: keys.PublicKeyShare{PublicKey: point, ID: uint16(i), Group: group}}
		a.shares = append(a.shares, share)
		public = append(public, share.Public())
	}
	a.config = &bytemare.Configuration{Ciphersuite: bytemare.Ed25519, Threshold: uint16(e.record.Threshold),
		MaxSigners: uint16(e.record.Shares), VerificationKey: key, SignerPublicKeyShares: public}
	if err := a.config.Init(); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestSharesElsewhere: shares made and refreshed here sign in the other library.
func TestSharesElsewhere(t *testing.T) {
	e, err := newEngine(mpc.Ed25519, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	refreshed, err := e.refresh()
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []*engine{e, refreshed} {
		if err := asBytemare(t, account).sign([]byte("message")); err != nil {
			t.Error(err)
		}
	}
}

// TestMixedSession: one signer is ours, the other the other library's. It works
// only if both compute RFC 9591 in the same way, to the bit.
func TestMixedSession(t *testing.T) {
	e, err := newEngine(mpc.Ed25519, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	theirs := asBytemare(t, e)
	for n := range 20 {
		message := bytes.Repeat([]byte{byte(n)}, n+1)
		ours, err := frost.NewSign(frost.SignConfig{Self: 1, Signers: []mpc.Index{1, 3}, Record: e.record, Share: e.shares[1],
			Message: message, SessionID: sessionID()})
		if err != nil {
			t.Fatal(err)
		}
		first, err := ours.Start()
		if err != nil || len(first) != 1 {
			t.Fatalf("%d messages, %v", len(first), err)
		}
		signer, err := theirs.config.Signer(theirs.shares[2])
		if err != nil {
			t.Fatal(err)
		}
		commitment := signer.Commit()
		second := mpc.Message{From: 3, Broadcast: true, Round: first[0].Round, Transcript: first[0].Transcript,
			Data: append(commitment.HidingNonceCommitment.Encode(), commitment.BindingNonceCommitment.Encode()...)}
		shares, err := ours.Step(second)
		if err != nil || len(shares) != 1 {
			t.Fatalf("%d messages, %v", len(shares), err)
		}

		group := bytemare.Ed25519.Group()
		own := &bytemare.Commitment{Group: group, SignerID: 1, CommitmentID: 1, HidingNonceCommitment: group.NewElement(), BindingNonceCommitment: group.NewElement()}
		if err := own.HidingNonceCommitment.Decode(first[0].Data[:32]); err != nil {
			t.Fatal(err)
		}
		if err := own.BindingNonceCommitment.Decode(first[0].Data[32:]); err != nil {
			t.Fatal(err)
		}
		list := bytemare.CommitmentList{own, commitment}
		theirShare, err := signer.Sign(message, list)
		if err != nil {
			t.Fatal(err)
		}
		ourShare := &bytemare.SignatureShare{Group: group, SignerIdentifier: 1, SignatureShare: group.NewScalar()}
		if err := ourShare.SignatureShare.Decode(shares[0].Data); err != nil {
			t.Fatal(err)
		}
		if err := theirs.config.VerifySignatureShare(ourShare, message, list); err != nil {
			t.Fatalf("the other library refuses our signature share: %v", err)
		}
		sig, err := theirs.config.AggregateSignatures(message, []*bytemare.SignatureShare{ourShare, theirShare}, list, true)
		if err != nil {
			t.Fatal(err)
		}

		// Our party wants to know what its peer was told in round 1.
		h := sha512.New()
		h.Write([]byte("vault-plugin-secrets-mpc frost ed25519 echo v1"))
		h.Write(first[0].Transcript[:])
		for _, part := range []struct {
			index byte
			data  []byte
		}{{1, first[0].Data}, {3, second.Data}} {
			h.Write(append([]byte{part.index}, make([]byte, 31)...))
			h.Write(part.data)
		}
		last := mpc.Message{From: 3, Broadcast: true, Round: shares[0].Round, Transcript: first[0].Transcript, Echo: h.Sum(nil), Data: theirShare.SignatureShare.Encode()}
		if _, err := ours.Step(last); err != nil {
			t.Fatalf("our party refuses the other library's signature share: %v", err)
		}
		result, err := ours.Result()
		if err != nil {
			t.Fatal(err)
		}
		if want := append(sig.R.Encode(), sig.Z.Encode()...); !bytes.Equal(result.Bytes, want) {
			t.Errorf("the libraries arrive at different signatures: %x, %x", result.Bytes, want)
		}
		if !ed25519.Verify(e.record.PublicKey, message, result.Bytes) {
			t.Error("the signature does not verify")
		}
	}
}

// TestDerivationElsewhere: BIP-32 children are those of btcd's hdkeychain.
func TestDerivationElsewhere(t *testing.T) {
	for range 20 {
		e, err := newEngine(mpc.ECDSASecp256k1, 2, 2)
		if err != nil {
			t.Fatal(err)
		}
		parent := hdkeychain.NewExtendedKey([]byte{4, 0x88, 0xb2, 0x1e}, e.record.PublicKey, e.record.ChainCode[:], make([]byte, 4), 0, 0, false)
		path, want := "m", parent
		random := sessionID()
		for k := range 3 {
			step := binary.BigEndian.Uint32(random[4*k:]) &^ (1 << 31)
			path += "/" + strconv.FormatUint(uint64(step), 10)
			if want, err = want.Derive(step); err != nil {
				t.Fatal(err)
			}
		}
		child, err := derive.Derive(e.record, mpc.Derivation{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		key, err := want.ECPubKey()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(child.PublicKey, key.SerializeCompressed()) || !bytes.Equal(child.ChainCode[:], want.ChainCode()) {
			t.Errorf("%s: %x, want %x", path, child.PublicKey, key.SerializeCompressed())
		}
	}
}
