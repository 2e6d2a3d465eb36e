package hsmtest

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
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
}

type fakeKey struct {
	id   []byte
	priv *ecdh.PrivateKey
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

// Plant puts a foreign key pair under an ID, next to what is there.
func (f *Fake) Plant(id []byte) error {
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, fakeKey{bytes.Clone(id), priv})
	return nil
}

// FakeToken is one process's view of a Fake.
type FakeToken struct {
	fake *Fake

	mu     sync.Mutex
	closed bool
}

var _ Token = (*FakeToken)(nil)

// GenerateWrappingKey makes a software P-256 key.
func (t *FakeToken) GenerateWrappingKey(ctx context.Context, r hsm.KeyRequest) (hsm.WrappingKey, error) {
	domain, version, label := r.Domain, r.Version, r.Label
	if err := t.usable(ctx); err != nil {
		return hsm.WrappingKey{}, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	if err := t.fake.Plant(id); err != nil {
		return hsm.WrappingKey{}, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	pub := t.fake.keys[t.fake.index(id)].priv.PublicKey().Bytes()
	return hsm.WrappingKey{Domain: domain, Version: version, Suite: hsm.SuiteHPKEP256, ID: id, PublicKey: pub, Label: label}, nil
}

// Bind checks that the key is there, alone under its ID, and the pinned one.
func (t *FakeToken) Bind(ctx context.Context, key hsm.WrappingKey) error {
	_, err := t.lookup(ctx, key)
	return err
}

// ECDH implements hsm.PrivateKeys.
func (t *FakeToken) ECDH(ctx context.Context, key hsm.WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	priv, err := t.lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	z, err := priv.ECDH(peer)
	if err != nil {
		return nil, err
	}
	return secret.New(z), nil
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
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("%w: it was closed", hsm.ErrUnavailable)
	}
	return ctx.Err()
}

func (t *FakeToken) lookup(ctx context.Context, key hsm.WrappingKey) (*ecdh.PrivateKey, error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	if err := key.Check(); err != nil {
		return nil, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	i := t.fake.index(key.ID)
	if i < 0 {
		return nil, hsm.ErrKeyNotFound
	}
	found := t.fake.keys[i]
	if t.fake.count(key.ID) != 1 || !bytes.Equal(found.priv.PublicKey().Bytes(), key.PublicKey) {
		return nil, hsm.ErrKeyMismatch
	}
	return found.priv, nil
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

func (t *FakeToken) FindByLabel(ctx context.Context, label string) ([]hsm.KeyObject, error) {
	return nil, nil
}
