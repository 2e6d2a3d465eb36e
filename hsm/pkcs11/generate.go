//go:build cgo

package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

const keyIDSize = 16

// GenerateWrappingKey makes a key pair in the token that cannot leave it, under
// a random 16-byte CKA_ID, reads it back and proves by using it that the token
// can do the suite. It tries the wanted suites in their order; only a token that
// says that it cannot do one has the next one tried, never one that is away or
// in trouble. With none left the error is ErrNoSuite. On any error it destroys
// what it made; if that fails too, the error names the ID that is left behind.
//
// Only one process may make or destroy keys in a token at a time; within this
// process the Token sees to it.
func (t *Token) GenerateWrappingKey(ctx context.Context, r KeyRequest) (hsm.WrappingKey, error) {
	if err := r.Check(); err != nil {
		return hsm.WrappingKey{}, err
	}
	var refused []string
	for _, suite := range r.Suites {
		key := hsm.WrappingKey{Domain: r.Domain, Version: r.Version, Suite: suite, Label: r.Label}
		if suite == hsm.SuiteRSA3072OAEPSHA1 && !t.sha1 {
			refused = append(refused, fmt.Sprintf("%s: this host does not allow it", suite))
			continue
		}
		err := t.generateSuite(ctx, &key)
		if err == nil {
			return key, nil
		}
		if !cannot(err) {
			return hsm.WrappingKey{}, err
		}
		refused = append(refused, fmt.Sprintf("%s: %v", suite, err))
	}
	return hsm.WrappingKey{}, fmt.Errorf("%w: %s", ErrNoSuite, strings.Join(refused, "; "))
}

// cannot says whether a token refused because it does not offer the mechanism,
// its parameters or the kind of key. A busy, broken or absent token has other
// codes, and CKR_GENERAL_ERROR and CKR_FUNCTION_FAILED say nothing.
func cannot(err error) bool {
	code, ok := errors.AsType[p11.Error](err)
	if !ok || errors.Is(err, ErrUnavailable) || errors.Is(err, errLeft) {
		return false
	}
	switch code {
	case p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED, p11.CKR_ARGUMENTS_BAD,
		p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_TEMPLATE_INCOMPLETE, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID,
		p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_KEY_SIZE_RANGE, p11.CKR_KEY_TYPE_INCONSISTENT,
		p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_CURVE_NOT_SUPPORTED:
		return true
	}
	return false
}

// errLeft marks a failure after which something may be left in the token.
var errLeft = errors.New("a part of a key may be left in the token")

// generateSuite makes a key for key.Suite and fills in its ID and public key.
func (t *Token) generateSuite(ctx context.Context, key *hsm.WrappingKey) error {
	factor := adminFactor
	if _, ok := key.Suite.OAEPHash(); ok {
		factor = rsaFactor
	} else if key.Suite != hsm.SuiteHPKEP256 {
		return fmt.Errorf("pkcs11: %s cannot be made; use %s or %s", key.Suite, hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256)
	}
	key.ID = make([]byte, keyIDSize)
	_, _ = rand.Read(key.ID)
	work, cancel := context.WithTimeout(ctx, t.timeout*time.Duration(factor))
	defer cancel()

	// The search comes first and may be retried; making keys is not retried,
	// since a failed call may have made them. Tokens accept a second object
	// with the same ID, or replace the first.
	err := t.retry(work, func() error {
		p, err := withSession(work, t, true, func(s p11.SessionHandle) (pair, error) { return findPair(t.mod, s, key.ID) }, nil)
		if err == nil && len(p.private)+len(p.public) > 0 {
			err = fmt.Errorf("%w: a random new ID is already in use; check the token's random numbers", ErrKeyMismatch)
		}
		return err
	})
	if err != nil {
		return outward("looking for "+name(*key), err)
	}
	err = t.generate(work, key)
	if err == nil {
		return nil
	}
	err = outward("making "+name(*key), t.diagnose(work, err))
	// The caller's context may be what ended, and a half-made key must go all
	// the same; the clean-up has a short limit of its own.
	clean, stop := context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
	defer stop()
	if derr := t.DestroyWrappingKey(clean, key.ID); derr != nil && !errors.Is(derr, ErrKeyNotFound) {
		return fmt.Errorf("%w; and %w under the ID %x, remove it: %w", err, errLeft, key.ID, derr)
	}
	return fmt.Errorf("%w; nothing is left in the token", err)
}

// generate makes, reads back and proves the pair, and fills in its public key.
func (t *Token) generate(ctx context.Context, key *hsm.WrappingKey) error {
	type made struct {
		pair   pair
		public []byte
	}
	undo := func(s p11.SessionHandle, m made) { // the caller of generate makes sure
		_ = t.mod.DestroyObject(s, m.pair.private[0])
		_ = t.mod.DestroyObject(s, m.pair.public[0])
	}
	got, err := withSession(ctx, t, true, func(s p11.SessionHandle) (made, error) {
		mechanism, public, private := templates(*key)
		pub, priv, err := t.mod.GenerateKeyPair(s, []*p11.Mechanism{mechanism}, public, private)
		if err != nil {
			return made{}, err
		}
		m := made{pair: pair{private: []p11.ObjectHandle{priv}, public: []p11.ObjectHandle{pub}}}
		if m.public, err = readPublic(t.mod, s, pub, key.Suite); err == nil {
			err = checkProtection(t.mod, s, priv, key.Suite)
		}
		if err != nil {
			undo(s, m)
		}
		return m, err
	}, undo) // the caller left while the token worked, and may never look again
	if err != nil {
		return err
	}
	key.PublicKey = got.public
	// Found by its ID, as every other process will: shows that the token stored
	// it as one pair. Then used as it will be.
	_, err = t.locate(ctx, *key)
	return err
}
