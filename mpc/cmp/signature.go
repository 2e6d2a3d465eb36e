package cmp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
)

// Result returns the signature: DER with the low one of the two possible s, the
// recovery ID that goes with it, checked against the account's public key. The
// check uses decred's ECDSA, not the library's, although both stand on decred's
// field arithmetic.
func (p *SignParty) Result() (*mpc.Signature, error) {
	raw, err := p.ordered.Result()
	if err != nil {
		return nil, err
	}
	sig, ok := raw.(*ecdsa.Signature)
	if !ok {
		return nil, fmt.Errorf("ecdsa signing: unexpected result %T", raw)
	}
	point, err := sig.R.MarshalBinary() // SEC 1 compressed
	if err != nil {
		return nil, err
	}
	s, err := sig.S.MarshalBinary()
	if err != nil {
		return nil, err
	}
	out, err := newSignature(point, s, p.digest)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(out, p.record.PublicKey); err != nil {
		return nil, err
	}
	return out, nil
}

// newSignature builds a signature from the nonce point (33 bytes, compressed)
// and s (32 bytes). The recovery ID says how to find the point again from r
// (SEC 1, section 4.1.6): bit 0 is the parity of y, bit 1 says that x was
// reduced by the group order. Negating s negates the point.
func newSignature(point, s []byte, digest [mpc.DigestSize]byte) (*mpc.Signature, error) {
	if len(point) != pointSize || len(s) != scalarSize {
		return nil, errors.New("ecdsa signing: malformed signature")
	}
	var r, lowS secp256k1.ModNScalar
	id := int(point[0] & 1)
	if r.SetByteSlice(point[1:]) {
		id |= 2
	}
	if lowS.SetByteSlice(s) || lowS.IsZero() || r.IsZero() {
		return nil, errors.New("ecdsa signing: malformed signature")
	}
	if lowS.IsOverHalfOrder() {
		lowS.Negate()
		id ^= 1
	}
	return &mpc.Signature{
		Bytes:      decred.NewSignature(&r, &lowS).Serialize(),
		R:          r.Bytes(),
		S:          lowS.Bytes(),
		RecoveryID: id,
		Digest:     digest[:],
	}, nil
}

// verifySignature reads the signature back from DER and checks it and its
// recovery ID against the compressed public key.
func verifySignature(sig *mpc.Signature, publicKey []byte) error {
	key, err := secp256k1.ParsePubKey(publicKey)
	if err != nil {
		return fmt.Errorf("ecdsa signing: public key: %w", err)
	}
	parsed, err := decred.ParseDERSignature(sig.Bytes)
	if err != nil || !parsed.Verify(sig.Digest, key) {
		return errors.New("ecdsa signing: the finished signature does not verify; it is withheld")
	}
	// decred's compact form: 27 + recovery ID + 4 for a compressed key, r, s.
	compact := append([]byte{byte(27 + sig.RecoveryID + 4)}, sig.R[:]...)
	recovered, _, err := decred.RecoverCompact(append(compact, sig.S[:]...), sig.Digest)
	if err != nil || !bytes.Equal(recovered.SerializeCompressed(), key.SerializeCompressed()) {
		return errors.New("ecdsa signing: the recovery ID does not lead to the account's key; the signature is withheld")
	}
	return nil
}
