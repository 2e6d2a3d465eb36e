package cmp

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"

	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// maxAuxSecret bounds an encoded AuxSecret in bytes; it has about 400.
const maxAuxSecret = 1024

// ErrSecretMismatch: the secret half does not belong to the public half.
var ErrSecretMismatch = errors.New("the secret auxiliary keys do not belong to the public ones")

var errWiped = errors.New("the secret auxiliary keys have been wiped")

// AuxSecret is the secret half of a node's auxiliary keys. It keeps bytes only;
// library objects are made from it for one use each. Using it concurrently is
// allowed, wiping it at the same time is not.
type AuxSecret struct {
	generation uint64
	p, q       *secret.Bytes // primeSize bytes each, big-endian, p·q = N
	elGamal    []elGamalSecret
}

type elGamalSecret struct {
	curve  string
	scalar *secret.Bytes // scalarSize bytes, big-endian
}

// Generation returns the generation of the keys.
func (s *AuxSecret) Generation() uint64 { return s.generation }

// Wipe clears the keys. Later use fails.
func (s *AuxSecret) Wipe() {
	if s == nil {
		return
	}
	s.p.Wipe()
	s.q.Wipe()
	for _, e := range s.elGamal {
		e.scalar.Wipe()
	}
}

// Marshal returns a canonical encoding, to be wrapped at once and wiped. Every
// field is preceded by its length (4 bytes, big-endian): label with version,
// generation (8 bytes), P and Q (128 each, big-endian), number of ElGamal keys
// (1), for each its curve's name and scalar (32, big-endian).
func (s *AuxSecret) Marshal() *secret.Bytes {
	// One allocation: a grown slice would leave a copy behind.
	f := append(make(fields, 0, maxAuxSecret), newFields(labelSecret)...)
	f = f.uint64(s.generation).put(s.p.Expose()).put(s.q.Expose()).put([]byte{byte(len(s.elGamal))})
	for _, e := range s.elGamal {
		f = f.put([]byte(e.curve)).put(e.scalar.Expose())
	}
	return secret.New(f)
}

// ParseAuxSecret reads Marshal's encoding and checks it against the public
// half. encoded stays the caller's to wipe.
func ParseAuxSecret(encoded *secret.Bytes, public *AuxPublic) (*AuxSecret, error) {
	r := newReader(encoded.Expose(), maxAuxSecret, labelSecret)
	s := &AuxSecret{generation: r.uint64()}
	s.p = secret.Copy(r.between(primeSize, primeSize))
	s.q = secret.Copy(r.between(primeSize, primeSize))
	var count [1]byte
	r.fixed(count[:])
	if count[0] < 1 || count[0] > maxCurves {
		r.rejectf("%d ElGamal keys", count[0])
	}
	for len(s.elGamal) < int(count[0]) && r.err == nil {
		name := string(r.between(1, maxCurveName))
		s.elGamal = append(s.elGamal, elGamalSecret{name, secret.Copy(r.between(scalarSize, scalarSize))})
	}
	err := r.end()
	if err == nil {
		err = s.belongsTo(public)
	}
	if err != nil {
		s.Wipe()
		return nil, fmt.Errorf("secret auxiliary keys: %w", err)
	}
	return s, nil
}

// belongsTo checks generation, P and Q (1024 bits, 3 mod 4), P·Q = N, and that
// every ElGamal scalar gives its point.
func (s *AuxSecret) belongsTo(public *AuxPublic) error {
	return guarded(func() error {
		if s.p.Len() != primeSize || s.q.Len() != primeSize || s.p.Equal(s.q) ||
			s.generation != public.owner.Generation || len(s.elGamal) != len(public.elGamal) {
			return ErrSecretMismatch
		}
		p, q := nat(s.p.Expose()), nat(s.q.Expose())
		defer wipeNat(p)
		defer wipeNat(q)
		for _, prime := range []*saferith.Nat{p, q} {
			if err := paillier.ValidatePrime(prime); err != nil {
				return fmt.Errorf("%w: %w", ErrSecretMismatch, err)
			}
		}
		n := make([]byte, modulusSize)
		new(saferith.Nat).Mul(p, q, 8*modulusSize).FillBytes(n)
		if subtle.ConstantTimeCompare(n, public.n[:]) != 1 {
			return ErrSecretMismatch
		}
		for i, e := range s.elGamal {
			if e.curve != public.elGamal[i].curve {
				return ErrSecretMismatch
			}
			point, err := public.elGamalPoint(e.curve)
			if err != nil {
				return err
			}
			y, err := s.elGamalScalar(e.curve)
			if err != nil {
				return err
			}
			defer curve.WipeScalar(y)
			if !y.ActOnBase().Equal(point) {
				return ErrSecretMismatch
			}
		}
		return nil
	})
}

// paillierKey returns a fresh library key; wipePaillier clears it.
func (s *AuxSecret) paillierKey() *paillier.SecretKey {
	return paillier.NewSecretKeyFromPrimes(nat(s.p.Expose()), nat(s.q.Expose()))
}

// elGamalScalar returns a fresh scalar.
func (s *AuxSecret) elGamalScalar(name string) (libcurve.Scalar, error) {
	group, known := curveByName(name)
	for _, e := range s.elGamal {
		if known && e.curve == name {
			return curve.ParseScalar(group, e.scalar)
		}
	}
	return nil, fmt.Errorf("no ElGamal key on %s", name)
}

// wipeNat and wipePaillier overwrite library objects as far as the library lets
// them be reached; copies that it made on its own remain.
func wipeNat(x *saferith.Nat) {
	if x != nil {
		x.SetBytes(make([]byte, (x.AnnouncedLen()+7)/8))
	}
}

func wipePaillier(k *paillier.SecretKey) {
	if k != nil {
		wipeNat(k.P())
		wipeNat(k.Q())
		wipeNat(k.Phi())
	}
}
