package cmp

import (
	"errors"
	"fmt"

	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// Result returns the signature: DER with the low one of the two possible s, the
// recovery ID that goes with it, checked against the account's public key by
// mpc/verify, not by the library.
func (p *SignParty) Result() (*mpc.Signature, error) {
	raw, err := p.ordered.Result()
	if err != nil {
		return nil, err
	}
	sig, ok := raw.(*ecdsa.Signature)
	if !ok {
		return nil, fmt.Errorf("ecdsa signing: unexpected result %T", raw)
	}
	out, err := newSignature(p.record.Algorithm, sig, p.digest)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(p.record.Algorithm, out, p.record.PublicKey); err != nil {
		return nil, err
	}
	return out, nil
}

// newSignature encodes a signature of the library.
func newSignature(a mpc.Algorithm, sig *ecdsa.Signature, digest [mpc.DigestSize]byte) (*mpc.Signature, error) {
	point, err := sig.R.MarshalBinary() // SEC 1 compressed
	if err != nil {
		return nil, err
	}
	s, err := sig.S.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return encodeSignature(a, point, s, digest)
}

// encodeSignature builds a signature from the nonce point (33 bytes, compressed)
// and s (32 bytes). The recovery ID says how to find the point again from r
// (SEC 1, section 4.1.6): bit 0 is the parity of y, bit 1 says that x was
// reduced by the group order. Negating s negates the point.
func encodeSignature(a mpc.Algorithm, point, s []byte, digest [mpc.DigestSize]byte) (*mpc.Signature, error) {
	if len(point) != pointSize || len(s) != scalarSize {
		return nil, errors.New("ecdsa signing: malformed signature")
	}
	group, err := groupOf(a)
	if err != nil {
		return nil, err
	}
	order := group.Order().Nat().Big()
	id := int(point[0] & 1)
	r, lowS := bigInt(point[1:]), bigInt(s)
	if r.Cmp(order) >= 0 {
		r.Sub(r, order)
		id |= 2
	}
	if r.Sign() == 0 || lowS.Sign() == 0 || lowS.Cmp(order) >= 0 {
		return nil, errors.New("ecdsa signing: malformed signature")
	}
	if other := bigInt(nil).Sub(order, lowS); other.Cmp(lowS) < 0 {
		lowS = other
		id ^= 1
	}
	out := &mpc.Signature{RecoveryID: id, Digest: digest[:]}
	r.FillBytes(out.R[:])
	lowS.FillBytes(out.S[:])
	out.Bytes = verify.DER(out.R, out.S)
	return out, nil
}

// verifySignature reads the signature back from DER and checks it and its
// recovery ID against the compressed public key.
func verifySignature(a mpc.Algorithm, sig *mpc.Signature, publicKey []byte) error {
	if !verify.Signature(a, publicKey, sig.Digest, sig.Bytes) {
		return errors.New("ecdsa signing: the finished signature does not verify; it is withheld")
	}
	if !verify.RecoversKey(a, publicKey, sig.Digest, sig.R, sig.S, sig.RecoveryID) {
		return errors.New("ecdsa signing: the recovery ID does not lead to the account's key; the signature is withheld")
	}
	return nil
}
