package backend

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"slices"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secpecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// fakeKey is a whole private key; only the fake engine has such a thing.
type fakeKey struct {
	secp *secp256k1.PrivateKey
	p256 *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
}

// newFakeKey returns the public key encoded as in mpc.PublicRecord.
func newFakeKey(alg mpc.Algorithm) (*fakeKey, []byte, error) {
	switch alg {
	case mpc.Ed25519:
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		return &fakeKey{ed: key}, pub, err
	case mpc.ECDSAP256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		pub, err := key.PublicKey.Bytes() // 4, X, Y
		if err != nil {
			return nil, nil, err
		}
		return &fakeKey{p256: key}, append([]byte{2 + pub[64]&1}, pub[1:33]...), nil
	}
	key, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		return nil, nil, err
	}
	pub := key.PubKey().SerializeCompressed()
	if alg == mpc.BIP340Secp256k1 {
		if pub[0] == secp256k1.PubKeyFormatCompressedOdd {
			key.Key.Negate()
		}
		pub = pub[1:]
	}
	return &fakeKey{secp: key}, pub, nil
}

// child returns the key that a request signs with, and its public key.
func (k *fakeKey) child(r *mpc.PublicRecord, d mpc.Derivation) (*secp256k1.PrivateKey, []byte, error) {
	c, err := derive.Derive(r, d)
	if err != nil || k.secp == nil {
		return nil, nil, err
	}
	x, err := c.Share(secret.Copy(k.secp.Serialize()))
	if err != nil {
		return nil, nil, err
	}
	return secp256k1.PrivKeyFromBytes(x.Expose()), c.PublicKey, nil
}

func (k *fakeKey) sign(r *mpc.PublicRecord, q *pool.SignRequest) (*mpc.Signature, error) {
	message, err := mpc.SigningInput(r.Algorithm, q.MessageType, q.Hash, q.Input)
	if err != nil {
		return nil, err
	}
	key, pub, err := k.child(r, q.Derivation)
	if err != nil {
		return nil, err
	}
	s := &mpc.Signature{RecoveryID: -1, Digest: message}
	switch r.Algorithm {
	case mpc.BIP340Secp256k1:
		s.Bytes = bip340Sign(key, pub, message)
	case mpc.Ed25519:
		s.Bytes = ed25519.Sign(k.ed, message)
	case mpc.ECDSAP256:
		a, b, err := ecdsa.Sign(rand.Reader, k.p256, message)
		if err != nil {
			return nil, err
		}
		if n := elliptic.P256().Params().N; b.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
			b.Sub(n, b)
		}
		a.FillBytes(s.R[:])
		b.FillBytes(s.S[:])
		s.Bytes = verify.DER(s.R, s.S)
		for s.RecoveryID = 0; s.RecoveryID < 3 && !verify.RecoversKey(r.Algorithm, r.PublicKey, message, s.R, s.S, s.RecoveryID); {
			s.RecoveryID++
		}
		return s, nil
	default:
		// 27 + recovery ID + 4 for a compressed key, r, s.
		compact := secpecdsa.SignCompact(key, message, true)
		copy(s.R[:], compact[1:33])
		copy(s.S[:], compact[33:])
		s.Bytes, s.RecoveryID = verify.DER(s.R, s.S), int(compact[0])-31
		return s, nil
	}
	copy(s.R[:], s.Bytes[:32])
	copy(s.S[:], s.Bytes[32:])
	return s, nil
}

// bip340Sign signs with a nonce that is only good enough for tests. The key
// belongs to the point with even y.
func bip340Sign(key *secp256k1.PrivateKey, pub, msg []byte) []byte {
	seed := sha256.Sum256(append(key.Serialize(), msg...))
	var k, e secp256k1.ModNScalar
	k.SetBytes(&seed)
	var point secp256k1.JacobianPoint
	secp256k1.ScalarBaseMultNonConst(&k, &point)
	point.ToAffine()
	if point.Y.IsOdd() {
		k.Negate()
	}
	rx := point.X.Bytes()
	tag := sha256.Sum256([]byte("BIP0340/challenge"))
	c := sha256.Sum256(slices.Concat(tag[:], tag[:], rx[:], pub, msg))
	e.SetBytes(&c)
	s := e.Mul(&key.Key).Add(&k).Bytes()
	return append(rx[:], s[:]...)
}
