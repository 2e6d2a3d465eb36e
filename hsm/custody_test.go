package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

func newCustodyKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

// custodyCase is a share with user custody, and a second one of the same owner.
type custodyCase struct {
	x                hsm.PrivateKeys
	keys             []hsm.WrappingKey
	custody          *ecdh.PrivateKey
	c, other         hsm.Context
	envelope, second []byte
	share            []byte
}

func newCustodyCase(t testing.TB) *custodyCase {
	t.Helper()
	x, key := newSoftKey(t, hsm.DefaultDomain, 1)
	s := &custodyCase{x: x, keys: []hsm.WrappingKey{key}, custody: newCustodyKey(t), share: []byte("a share of 32 bytes, for a test!"),
		c: hsm.ShareContext(1, [32]byte{1}), other: hsm.ShareContext(2, [32]byte{1})}
	s.envelope = s.seal(t, s.c)
	s.second = s.seal(t, s.other)
	return s
}

func (s *custodyCase) seal(t testing.TB, c hsm.Context) []byte {
	t.Helper()
	envelope, k2, err := hsm.SealCustody(c, secret.Copy(s.share), s.keys, s.custody.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	released, err := hsm.OpenCustodySeal(s.custody, c, envelope)
	if err != nil || !released.Equal(k2) || k2.Len() != hsm.CustodyPartSize {
		t.Fatalf("the custody key does not open what was sealed to it: %v", err)
	}
	return envelope
}

func (s *custodyCase) part(t testing.TB, c hsm.Context, envelope []byte) *secret.Bytes {
	t.Helper()
	k2, err := hsm.OpenCustodySeal(s.custody, c, envelope)
	if err != nil {
		t.Fatal(err)
	}
	return k2
}

func (s *custodyCase) open(c hsm.Context, envelope []byte, k2 *secret.Bytes) error {
	plain, _, err := hsm.OpenWith(context.Background(), s.x, s.keys, c, envelope, k2)
	if err == nil && !bytes.Equal(plain.Expose(), s.share) {
		return errors.New("it opens to something else")
	}
	return err
}

// TestCustodyNeedsBoth: neither the token nor the custody key opens alone, and a
// part opens its own share only.
func TestCustodyNeedsBoth(t *testing.T) {
	s := newCustodyCase(t)
	k2 := s.part(t, s.c, s.envelope)
	if err := s.open(s.c, s.envelope, k2); err != nil {
		t.Fatal(err)
	}
	if _, _, err := hsm.Open(t.Context(), s.x, s.keys, s.c, s.envelope); !errors.Is(err, hsm.ErrNeedsCustodyKey) {
		t.Errorf("the token alone: %v", err)
	}
	stranger, _ := newSoftKey(t, hsm.DefaultDomain, 1)
	if _, _, err := hsm.OpenWith(t.Context(), stranger, s.keys, s.c, s.envelope, k2); err == nil {
		t.Error("the custody part opens without the token")
	}
	for name, wrong := range map[string]*secret.Bytes{
		"another share's": s.part(t, s.other, s.second),
		"of an epoch before, the same share sealed anew": s.part(t, s.c, s.seal(t, s.c)),
		"zeros": secret.New(make([]byte, 32)),
		"short": secret.Copy(k2.Expose()[:31]),
		"empty": nil,
	} {
		if err := s.open(s.c, s.envelope, wrong); !errors.Is(err, hsm.ErrCustodyPart) {
			t.Errorf("a part that is %s: %v", name, err)
		}
	}
	if err := s.open(s.other, s.envelope, k2); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("in another context: %v", err)
	}
	if _, err := hsm.OpenCustodySeal(s.custody, s.other, s.envelope); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("the custody seal in another context: %v", err)
	}
	if _, err := hsm.OpenCustodySeal(newCustodyKey(t), s.c, s.envelope); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("another custody key: %v", err)
	}
}

// TestCustodyCannotBeTakenAway: without its second holder an envelope does not
// open, and one that never had it does not pass where custody is required.
func TestCustodyCannotBeTakenAway(t *testing.T) {
	s := newCustodyCase(t)
	k2 := s.part(t, s.c, s.envelope)
	e, err := hsm.ParseEnvelope(s.envelope)
	if err != nil {
		t.Fatal(err)
	}
	e.Holders = e.Holders[:1]
	bare, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := hsm.Open(t.Context(), s.x, s.keys, s.c, bare); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("stripped of its custody holder: %v", err)
	}
	if err := s.open(s.c, bare, k2); !errors.Is(err, hsm.ErrEnvelope) {
		t.Errorf("stripped, with the part: %v", err)
	}
	plain, err := hsm.Seal(s.c, secret.Copy(s.share), s.keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.open(s.c, plain, k2); !errors.Is(err, hsm.ErrEnvelope) {
		t.Errorf("never had one: %v", err)
	}
	if _, err := hsm.OpenCustodySeal(s.custody, s.c, plain); !errors.Is(err, hsm.ErrEnvelope) {
		t.Errorf("a custody seal of an envelope without one: %v", err)
	}
}

// TestCustodySealsAreApart: k₁'s seal does not pass as k₂'s, even where one key
// serves as wrapping key and custody key and the domain has the holder's name.
func TestCustodySealsAreApart(t *testing.T) {
	s := newCustodyCase(t)
	same := hsm.WrappingKey{Domain: "custody", Version: 1, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: s.custody.PublicKey().Bytes()}
	envelope, _, err := hsm.SealCustody(s.c, secret.Copy(s.share), []hsm.WrappingKey{same}, s.custody.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	e, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		t.Fatal(err)
	}
	e.Holders[1].Seals = e.Holders[0].Seals
	if envelope, err = e.Marshal(); err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.OpenCustodySeal(s.custody, s.c, envelope); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("a k₁ was handed out as a custody part: %v", err)
	}
}

// TestRewrapCustody: the wrapping key is replaced without the owner, and only
// that.
func TestRewrapCustody(t *testing.T) {
	s := newCustodyCase(t)
	k2 := s.part(t, s.c, s.envelope)
	x2, key2 := newSoftKey(t, hsm.DefaultDomain, 2)
	after, err := hsm.Rewrap(t.Context(), s.x, s.keys, s.c, s.envelope, []hsm.WrappingKey{key2})
	if err != nil {
		t.Fatal(err)
	}
	both := either{s.keys[0].Version: s.x, 2: x2}
	keys := []hsm.WrappingKey{s.keys[0], key2}
	if err := hsm.CheckRewrapped(t.Context(), both, keys, s.c, s.envelope, after); err != nil {
		t.Fatal(err)
	}
	if _, version, err := hsm.OpenWith(t.Context(), x2, []hsm.WrappingKey{key2}, s.c, after, k2); err != nil || version != 2 {
		t.Fatalf("version %d, %v", version, err)
	}
	if again := s.part(t, s.c, after); !again.Equal(k2) {
		t.Error("the custody part changed")
	}
	if _, _, err := hsm.Open(t.Context(), x2, []hsm.WrappingKey{key2}, s.c, after); !errors.Is(err, hsm.ErrNeedsCustodyKey) {
		t.Errorf("rewrapping took the custody key away: %v", err)
	}
	for name, wrong := range map[string][]byte{
		"sealed anew": s.seal(t, s.c), "another share": s.second,
		"another ciphertext": flipLast(after), "no custody holder": strip(t, after), "cut": after[:len(after)-1],
	} {
		if err := hsm.CheckRewrapped(t.Context(), both, keys, s.c, s.envelope, wrong); err == nil {
			t.Errorf("%s passes as rewrapped", name)
		}
	}
	// Seals to another k₁: what a faulty rewrap would leave.
	other, err := hsm.ParseEnvelope(s.seal(t, s.c))
	if err != nil {
		t.Fatal(err)
	}
	e, err := hsm.ParseEnvelope(after)
	if err != nil {
		t.Fatal(err)
	}
	e.Holders[0] = other.Holders[0]
	garbage, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := hsm.CheckRewrapped(t.Context(), both, keys, s.c, s.envelope, garbage); !errors.Is(err, hsm.ErrOpen) {
		t.Errorf("seals of another key pass as rewrapped: %v", err)
	}
}

func TestSealCustodyRefuses(t *testing.T) {
	s := newCustodyCase(t)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]*ecdh.PublicKey{"none": nil, "X25519": x25519.PublicKey()} {
		if _, k2, err := hsm.SealCustody(s.c, secret.Copy(s.share), s.keys, key); err == nil || k2 != nil {
			t.Errorf("sealed to a custody key that is %s", name)
		}
	}
	if _, k2, err := hsm.SealCustody(nil, secret.Copy(s.share), s.keys, s.custody.PublicKey()); err == nil || k2 != nil {
		t.Error("sealed without a context")
	}
	if _, k2, err := hsm.SealCustody(s.c, secret.Copy(s.share), nil, s.custody.PublicKey()); err == nil || k2 != nil {
		t.Error("sealed to the custody key alone")
	}
	if _, err := hsm.OpenCustodySeal(x25519, s.c, s.envelope); err == nil {
		t.Error("opened with a key of another curve")
	}
	if _, err := hsm.OpenCustodySeal(nil, s.c, s.envelope); err == nil {
		t.Error("opened with no key")
	}
	for _, bad := range [][]byte{nil, make([]byte, 65), s.custody.PublicKey().Bytes()[:64], x25519.PublicKey().Bytes()} {
		if _, err := hsm.ParseCustodyKey(bad); err == nil {
			t.Errorf("accepted a custody key of %d bytes", len(bad))
		}
	}
}

// either is a token with several keys in software.
type either map[uint32]hsm.PrivateKeys

func (e either) ECDH(ctx context.Context, key hsm.WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	return e[key.Version].ECDH(ctx, key, peer)
}

func (e either) DecryptOAEP(ctx context.Context, key hsm.WrappingKey, ciphertext []byte) (*secret.Bytes, error) {
	return e[key.Version].DecryptOAEP(ctx, key, ciphertext)
}

func flipLast(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)-1] ^= 1
	return out
}

func strip(t *testing.T, envelope []byte) []byte {
	t.Helper()
	e, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		t.Fatal(err)
	}
	e.Holders = e.Holders[:1]
	out, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzOpenCustodySeal: whatever a server hands to an owner, the owner opens what
// was sealed in the context or nothing.
func FuzzOpenCustodySeal(f *testing.F) {
	s := newCustodyCase(f)
	want := s.part(f, s.c, s.envelope)
	f.Add(s.envelope)
	f.Add(s.second)
	f.Add(goldenBytes(f))
	f.Add([]byte("MPCW\x01\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k2, err := hsm.OpenCustodySeal(s.custody, s.c, b)
		if err != nil && !errors.Is(err, hsm.ErrEnvelope) && !errors.Is(err, hsm.ErrOpen) {
			t.Fatalf("got %v", err)
		}
		if err == nil && !k2.Equal(want) {
			t.Fatal("opened something that was not sealed")
		}
	})
}
