package hsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// HolderKind says who holds a key that is needed to open an envelope.
type HolderKind uint8

const (
	// HolderDomain is the wrapping domains: any one of its seals will do.
	HolderDomain HolderKind = 1
	// HolderCustody is the owner's custody key.
	HolderCustody HolderKind = 2
)

// Sizes in bytes, and counts.
const (
	// MaxPlaintext bounds what may be sealed; a node's auxiliary keys are the
	// largest thing that is.
	MaxPlaintext = 64 << 10
	// MaxEnvelope bounds what ParseEnvelope looks at.
	MaxEnvelope = 128 << 10
	// MaxDomain bounds the name of a wrapping domain.
	MaxDomain = 64

	maxSeals   = 16
	maxSealed  = 1024
	nonceSize  = 12
	tagSize    = 16
	keySize    = 32
	pointSize  = 65
	hpkeSealed = pointSize + keySize + tagSize // encapsulated point ‖ ciphertext ‖ tag
	rsaSealed  = rsaBits / 8
)

var envelopeMagic = [4]byte{'M', 'P', 'C', 'W'}

const envelopeVersion = 1

// SealedKey is one holder key kᵢ, sealed to one version of one key.
type SealedKey struct {
	Suite   Suite  // not 0; a suite this version does not know is kept as it is
	Domain  string // 1 to MaxDomain bytes
	Version uint32 // from 1
	Sealed  []byte // 1 to 1024 bytes; 113 for hpke-p256, 384 for the RSA suites
}

// Holder is one required key holder and the seals of its kᵢ.
type Holder struct {
	Kind  HolderKind
	Seals []SealedKey // 1 to 16, ascending by domain, then version, each pair once
}

// Envelope is a sealed secret. Its encoding, all integers big-endian:
//
//	"MPCW" ‖ version (1 byte, 1) ‖ number of holders (1)
//	per holder: kind (1) ‖ number of seals (1)
//	  per seal: suite (1) ‖ length (1) ‖ domain ‖ key version (4) ‖ length (2) ‖ sealed key
//	nonce (12) ‖ length (4) ‖ ciphertext with its 16-byte tag
//
// The encoding is canonical: the first holder is HolderDomain, a second one is
// HolderCustody, seals are ordered, nothing follows. The list of seals is not
// authenticated, on purpose: seals are replaced when the wrapping key rotates,
// without the other holders. Whoever changes them can only destroy or remove a
// way to open, which anyone who can write the envelope could do anyway.
type Envelope struct {
	Holders    []Holder
	Nonce      [nonceSize]byte
	Ciphertext []byte // 16 bytes to MaxPlaintext+16
}

// Custody says whether the custody key is needed to open e.
func (e *Envelope) Custody() bool {
	return slices.ContainsFunc(e.Holders, func(h Holder) bool { return h.Kind == HolderCustody })
}

// Seals returns the seals for wrapping domains: what refers to which wrapping
// key version. The result belongs to e.
func (e *Envelope) Seals() []SealedKey {
	if len(e.Holders) == 0 || e.Holders[0].Kind != HolderDomain {
		return nil
	}
	return e.Holders[0].Seals
}

// Seals parses an envelope and returns its seals for wrapping domains: which
// wrapping key versions it counts on. Errors: ErrEnvelope.
func Seals(envelope []byte) ([]SealedKey, error) {
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	return e.Seals(), nil
}

// Marshal returns the canonical encoding, or ErrEnvelope if e is not canonical.
func (e *Envelope) Marshal() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	out := append(envelopeMagic[:len(envelopeMagic):len(envelopeMagic)], envelopeVersion, byte(len(e.Holders)))
	for _, h := range e.Holders {
		out = append(out, byte(h.Kind), byte(len(h.Seals)))
		for _, s := range h.Seals {
			out = append(out, byte(s.Suite), byte(len(s.Domain)))
			out = append(out, s.Domain...)
			out = binary.BigEndian.AppendUint32(out, s.Version)
			out = binary.BigEndian.AppendUint16(out, uint16(len(s.Sealed)))
			out = append(out, s.Sealed...)
		}
	}
	out = append(out, e.Nonce[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(e.Ciphertext)))
	return append(out, e.Ciphertext...), nil
}

// ParseEnvelope reads exactly what Marshal writes. It copies what it keeps and
// allocates no more than a small multiple of len(b).
func ParseEnvelope(b []byte) (*Envelope, error) {
	if len(b) > MaxEnvelope {
		return nil, malformed("%d bytes, more than %d", len(b), MaxEnvelope)
	}
	r := reader{b: b}
	if magic := r.take(len(envelopeMagic)); !bytes.Equal(magic, envelopeMagic[:]) {
		return nil, malformed("it does not start with %q", envelopeMagic[:])
	}
	if v := r.uint8(); r.short || v != envelopeVersion {
		return nil, malformed("version %d; this program reads version %d", v, envelopeVersion)
	}
	e := new(Envelope)
	for range r.uint8() {
		h := Holder{Kind: HolderKind(r.uint8())}
		for range r.uint8() {
			s := SealedKey{Suite: Suite(r.uint8())}
			s.Domain = string(r.take(int(r.uint8())))
			s.Version = r.uint32()
			s.Sealed = bytes.Clone(r.take(int(r.uint16())))
			if r.short {
				return nil, malformed("it ends too early")
			}
			h.Seals = append(h.Seals, s)
		}
		if r.short {
			return nil, malformed("it ends too early")
		}
		e.Holders = append(e.Holders, h)
	}
	copy(e.Nonce[:], r.take(nonceSize))
	// The length is compared with what is left before it is used, also where
	// int has 32 bits.
	if n := r.uint32(); uint64(n) != uint64(len(r.b)) {
		return nil, malformed("the ciphertext is said to have %d bytes, and %d are left", n, len(r.b))
	}
	e.Ciphertext = bytes.Clone(r.b)
	if r.short {
		return nil, malformed("it ends too early")
	}
	if err := e.validate(); err != nil {
		return nil, err
	}
	return e, nil
}

// validate holds every rule of the format but the order of bytes; reading and
// writing share it, so neither can be laxer than the other.
func (e *Envelope) validate() error {
	switch {
	case len(e.Holders) == 0 || e.Holders[0].Kind != HolderDomain:
		return malformed("the first holder is not a wrapping domain")
	case len(e.Holders) == 2 && e.Holders[1].Kind != HolderCustody:
		return malformed("the second holder is not a custody key")
	case len(e.Holders) > 2:
		return malformed("%d holders", len(e.Holders))
	case len(e.Ciphertext) < tagSize || len(e.Ciphertext) > MaxPlaintext+tagSize:
		return malformed("a ciphertext of %d bytes", len(e.Ciphertext))
	}
	for _, h := range e.Holders {
		if len(h.Seals) == 0 || len(h.Seals) > maxSeals {
			return malformed("a holder with %d seals", len(h.Seals))
		}
		for i, s := range h.Seals {
			if err := s.validate(); err != nil {
				return err
			}
			if i > 0 && compareSeals(h.Seals[i-1], s) >= 0 {
				return malformed("seals out of order or doubled")
			}
		}
	}
	return nil
}

func (s SealedKey) validate() error {
	switch {
	case s.Suite == 0:
		return malformed("a seal without a suite")
	case len(s.Domain) == 0 || len(s.Domain) > MaxDomain:
		return malformed("a domain name of %d bytes", len(s.Domain))
	case s.Version == 0:
		return malformed("key version 0")
	case len(s.Sealed) == 0 || len(s.Sealed) > maxSealed:
		return malformed("a sealed key of %d bytes", len(s.Sealed))
	}
	if size, ok := s.Suite.sealedSize(); ok && len(s.Sealed) != size {
		return malformed("a sealed key of %d bytes; %s has %d", len(s.Sealed), s.Suite, size)
	}
	return nil
}

func compareSeals(a, b SealedKey) int {
	return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Version, b.Version))
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEnvelope, fmt.Sprintf(format, args...))
}

// reader takes bytes off the front of b; once b is too short it stays so and
// every further read gives zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	var out []byte
	out, r.b = r.b[:n], r.b[n:]
	return out
}

func (r *reader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
