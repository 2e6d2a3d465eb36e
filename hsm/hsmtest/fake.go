package hsmtest

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Fake is a token in memory, as several processes would see it: every Open
// gives one more view of the same keys. The private keys are software keys and
// not protected at all. It may be used concurrently.
type Fake struct {
	label string
	pin   string

	mu   sync.Mutex
	keys []fakeKey
	away bool
}

type fakeKey struct {
	id    []byte
	label string
	suite hsm.Suite
	ec    *ecdh.PrivateKey // hpke-p256
	rsa   *rsa.PrivateKey  // RSA suites
}

func (k fakeKey) public() []byte {
	if k.ec != nil {
		return k.ec.PublicKey().Bytes()
	}
	der, err := x509.MarshalPKIXPublicKey(k.rsa.Public())
	if err != nil {
		panic(err) // a key made here
	}
	return der
}

// NewFake makes an empty token.
func NewFake(label, pin string) *Fake { return &Fake{label: label, pin: pin} }

// Open checks label and PIN as a real token would; unlike one it never locks.
func (f *Fake) Open(label string, pin *secret.Bytes) (*FakeToken, error) {
	if label != f.label {
		return nil, fmt.Errorf("%w: the fake is %q", hsm.ErrTokenNotFound, f.label)
	}
	if string(pin.Expose()) != f.pin {
		return nil, hsm.ErrPINIncorrect
	}
	return &FakeToken{fake: f}, nil
}

// SetAway takes the token away from all views, or brings it back.
func (f *Fake) SetAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

// Plant puts a foreign key pair under an ID and label, next to what is there.
func (f *Fake) Plant(id []byte, label string, suite hsm.Suite) error {
	k := fakeKey{id: bytes.Clone(id), label: label, suite: suite}
	var err error
	if _, ok := suite.OAEPHash(); ok {
		k.rsa, err = rsa.GenerateKey(rand.Reader, 3072)
	} else {
		k.ec, err = ecdh.P256().GenerateKey(rand.Reader)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, k)
	return nil
}

// FakeToken is one process's view of a Fake.
type FakeToken struct {
	fake *Fake

	mu     sync.Mutex
	closed bool
}

var _ Token = (*FakeToken)(nil)

// GenerateWrappingKey makes a software key for the first of the wanted suites.
func (t *FakeToken) GenerateWrappingKey(ctx context.Context, r hsm.KeyRequest) (hsm.WrappingKey, error) {
	if err := r.Check(); err != nil {
		return hsm.WrappingKey{}, err
	}
	if err := t.usable(ctx); err != nil {
		return hsm.WrappingKey{}, err
	}
	if r.Suites[0] == 0 || r.Suites[0] > hsm.SuiteRSA3072OAEPSHA1 {
		return hsm.WrappingKey{}, hsm.ErrNoSuite
	}
	key := hsm.WrappingKey{Domain: r.Domain, Version: r.Version, Suite: r.Suites[0], ID: make([]byte, 16), Label: r.Label}
	_, _ = rand.Read(key.ID)
	if err := t.fake.Plant(key.ID, r.Label, key.Suite); err != nil {
		return hsm.WrappingKey{}, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	key.PublicKey = t.fake.keys[t.fake.index(key.ID)].public()
	return key, nil
}

// Bind checks that the key is there, alone under its ID, and the pinned one.
func (t *FakeToken) Bind(ctx context.Context, key hsm.WrappingKey) error {
	_, err := t.lookup(ctx, key)
	return err
}

// ECDH implements hsm.PrivateKeys.
func (t *FakeToken) ECDH(ctx context.Context, key hsm.WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	k, err := t.lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	if k.ec == nil {
		return nil, hsm.ErrKeyMismatch
	}
	z, err := k.ec.ECDH(peer)
	if err != nil {
		return nil, err
	}
	return secret.New(z), nil
}

// DecryptOAEP implements hsm.PrivateKeys.
func (t *FakeToken) DecryptOAEP(ctx context.Context, key hsm.WrappingKey, ciphertext []byte) (*secret.Bytes, error) {
	k, err := t.lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	hash, ok := key.Suite.OAEPHash()
	if !ok || k.rsa == nil {
		return nil, hsm.ErrKeyMismatch
	}
	if len(ciphertext) != k.rsa.Size() { // crypto/rsa takes shorter ones that mean the same number
		return nil, hsm.ErrOpen
	}
	plaintext, err := rsa.DecryptOAEP(hash.New(), nil, k.rsa, ciphertext, nil)
	if err != nil {
		return nil, hsm.ErrOpen
	}
	return secret.New(plaintext), nil
}

// Alive says whether the token is there.
func (t *FakeToken) Alive(ctx context.Context) error { return t.usable(ctx) }

// FindByLabel lists the keys with a label.
func (t *FakeToken) FindByLabel(ctx context.Context, label string) ([]hsm.KeyObject, error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	var objects []hsm.KeyObject
	for _, k := range t.fake.keys {
		if k.label != label {
			continue
		}
		i := slices.IndexFunc(objects, func(o hsm.KeyObject) bool { return bytes.Equal(o.ID, k.id) })
		if i < 0 {
			objects, i = append(objects, hsm.KeyObject{ID: bytes.Clone(k.id)}), len(objects)
		}
		objects[i].Private++
		objects[i].Public++
	}
	slices.SortFunc(objects, func(a, b hsm.KeyObject) int { return bytes.Compare(a.ID, b.ID) })
	return objects, nil
}

// DestroyWrappingKey removes every key under the ID.
func (t *FakeToken) DestroyWrappingKey(ctx context.Context, id []byte) error {
	if err := t.usable(ctx); err != nil {
		return err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	before := len(t.fake.keys)
	t.fake.keys = slices.DeleteFunc(t.fake.keys, func(k fakeKey) bool { return bytes.Equal(k.id, id) })
	if len(t.fake.keys) == before {
		return hsm.ErrKeyNotFound
	}
	return nil
}

// Close ends this view; the keys stay.
func (t *FakeToken) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

func (t *FakeToken) usable(ctx context.Context) error {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	t.fake.mu.Lock()
	away := t.fake.away
	t.fake.mu.Unlock()
	switch {
	case closed:
		return fmt.Errorf("%w: it was closed", hsm.ErrUnavailable)
	case away:
		return fmt.Errorf("%w: it was taken away", hsm.ErrUnavailable)
	}
	return ctx.Err()
}

func (t *FakeToken) lookup(ctx context.Context, key hsm.WrappingKey) (fakeKey, error) {
	if err := t.usable(ctx); err != nil {
		return fakeKey{}, err
	}
	if err := key.Check(); err != nil {
		return fakeKey{}, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	i := t.fake.index(key.ID)
	if i < 0 {
		return fakeKey{}, hsm.ErrKeyNotFound
	}
	found := t.fake.keys[i]
	if t.fake.count(key.ID) != 1 || found.suite != key.Suite || !bytes.Equal(found.public(), key.PublicKey) {
		return fakeKey{}, hsm.ErrKeyMismatch
	}
	return found, nil
}

// index and count need f.mu.
func (f *Fake) index(id []byte) int {
	return slices.IndexFunc(f.keys, func(k fakeKey) bool { return bytes.Equal(k.id, id) })
}

func (f *Fake) count(id []byte) int {
	n := 0
	for _, k := range f.keys {
		if bytes.Equal(k.id, id) {
			n++
		}
	}
	return n
}
