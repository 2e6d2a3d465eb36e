//go:build cgo

package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

func TestSoftHSM(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	hsmtest.Run(t, hsmtest.Harness{
		Label: soft.Label, PIN: string(soft.PIN().Expose()),
		Suites:  []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA1},
		Refused: []hsm.Suite{hsm.SuiteRSA3072OAEPSHA256},
		Open: func(ctx context.Context, label string, pin *secret.Bytes) (hsmtest.Token, error) {
			tok, err := pkcs11.Open(ctx, pkcs11.Config{Module: soft.Module, Label: label, PIN: pin, AllowSHA1: true, Timeout: patience})
			if err != nil {
				return nil, err
			}
			if info := tok.Info(); info.Label != label || info.Serial == "" || !info.PINChecked {
				t.Errorf("info %+v", info)
			}
			return tok, nil
		},
		Plant: func(t *testing.T, id []byte, label string, suite hsm.Suite) { plant(t, soft, id, label, suite) },
	})
}

// patience is far more than any call takes, so that a busy machine fails no
// test that is not about time.
const patience = 30 * time.Second

func request(version uint32, label string) pkcs11.KeyRequest {
	return pkcs11.KeyRequest{Domain: "default", Version: version, Label: label, Suites: []hsm.Suite{hsm.SuiteHPKEP256}}
}

func open(t testing.TB, soft hsmtest.SoftToken) *pkcs11.Token {
	t.Helper()
	tok, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

// rawSession works on the token past the package under test. Somebody in this
// process must be logged in.
func rawSession(t testing.TB, soft hsmtest.SoftToken) (*p11.Ctx, uint, p11.SessionHandle) {
	t.Helper()
	return session(t, soft.Module, soft.Label)
}

func session(t testing.TB, module, label string) (*p11.Ctx, uint, p11.SessionHandle) {
	t.Helper()
	c := p11.New(module)
	if err := c.Initialize(); !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		t.Fatalf("somebody finalised the module: %v", err)
	}
	slots, err := c.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if ti, err := c.GetTokenInfo(slot); err == nil && ti.Label == label {
			s, err := c.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.CloseSession(s) })
			return c, slot, s
		}
	}
	t.Fatal("no token")
	return nil, 0, 0
}

// plant makes a key pair under id; change may alter the private template. It
// returns the public key as hsm.WrappingKey has it.
func plant(t *testing.T, soft hsmtest.SoftToken, id []byte, label string, suite hsm.Suite, change ...*p11.Attribute) []byte {
	t.Helper()
	c, _, s := rawSession(t, soft)
	return hsmtest.PlantRaw(t, c, s, id, label, suite, change...)
}

func TestKeyIsProtected(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	tok := open(t, soft)
	key, err := tok.GenerateWrappingKey(t.Context(), request(1, "wrap-1"))
	if err != nil {
		t.Fatal(err)
	}
	c, _, s := rawSession(t, soft)
	if err := c.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_ID, key.ID)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := c.FindObjects(s, 2)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := c.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	if v, err := c.GetAttributeValue(s, found[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)}); err == nil {
		t.Fatalf("the private key can be read: %d bytes", len(v[0].Value))
	}
	if err := c.SetAttributeValue(s, found[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, true)}); err == nil {
		t.Fatal("the private key can be made extractable")
	}
}

func TestUnprotectedKeyIsRefused(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	tok, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	n := byte(0)
	for suite, changes := range map[hsm.Suite][]*p11.Attribute{
		hsm.SuiteHPKEP256: {
			p11.NewAttribute(p11.CKA_SENSITIVE, false),
			p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
			p11.NewAttribute(p11.CKA_DERIVE, false),
			nil, // the control: without a change the same key binds
		},
		hsm.SuiteRSA3072OAEPSHA1: {
			p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
			p11.NewAttribute(p11.CKA_DECRYPT, false),
			p11.NewAttribute(p11.CKA_SIGN, true),
			p11.NewAttribute(p11.CKA_UNWRAP, true),
			nil,
		},
	} {
		for _, a := range changes {
			n++
			id := bytes.Repeat([]byte{n}, 16)
			key := hsm.WrappingKey{Domain: "default", Version: 1, Suite: suite, ID: id}
			if a == nil {
				key.PublicKey = plant(t, soft, id, "", suite)
				if err := tok.Bind(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				continue
			}
			key.PublicKey = plant(t, soft, id, "", suite, a)
			if err := tok.Bind(t.Context(), key); !errors.Is(err, hsm.ErrKeyMismatch) {
				t.Errorf("%s, attribute %#x: %v", suite, a.Type, err)
			}
		}
	}
}

// TestSessionLoss: every session of the process goes, and with them the login
// and all handles, between any two calls. No call fails.
func TestSessionLoss(t *testing.T) {
	t.Run("SoftHSM", func(t *testing.T) {
		soft := hsmtest.SoftHSM(t)
		sessionLoss(t, pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true, Timeout: patience},
			hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA1)
	})
	t.Run("NSS", func(t *testing.T) {
		nss := hsmtest.NSS(t)
		sessionLoss(t, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN(), Timeout: patience},
			hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256)
	})
}

func sessionLoss(t *testing.T, cfg pkcs11.Config, suites ...hsm.Suite) {
	tok, err := pkcs11.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	lose := func() {
		t.Helper()
		raw, slot, _ := session(t, cfg.Module, cfg.Label)
		if err := raw.CloseAllSessions(slot); err != nil {
			t.Fatal(err)
		}
	}
	c := hsm.ShareContext(1, [32]byte{})
	for _, suite := range suites {
		key, err := tok.GenerateWrappingKey(t.Context(), suiteRequest(1, "lost and found", suite))
		if err != nil {
			t.Fatal(err)
		}
		e, err := hsm.Seal(c, secret.New([]byte("share")), []hsm.WrappingKey{key})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			lose()
			if _, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, e); err != nil {
				t.Fatalf("%s: after losing every session: %v", suite, err)
			}
		}
		lose()
		if err := tok.Bind(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		lose()
		if err := tok.Alive(t.Context()); err != nil {
			t.Fatal(err)
		}
		lose()
		if found, err := tok.FindByLabel(t.Context(), "lost and found"); err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		lose()
		another, err := tok.GenerateWrappingKey(t.Context(), suiteRequest(2, "", suites[0]))
		if err != nil {
			t.Fatalf("making a key after losing every session: %v", err)
		}
		for _, id := range [][]byte{another.ID, key.ID} {
			lose()
			if err := tok.DestroyWrappingKey(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	for name, test := range map[string]struct {
		cfg  pkcs11.Config
		want error
	}{
		"no module":    {pkcs11.Config{Module: "/no/such/file.so", Label: soft.Label, PIN: soft.PIN()}, pkcs11.ErrModule},
		"not a module": {pkcs11.Config{Module: soft.Conf, Label: soft.Label, PIN: soft.PIN()}, pkcs11.ErrModule},
		"no selector":  {pkcs11.Config{Module: soft.Module, PIN: soft.PIN()}, pkcs11.ErrTokenNotFound},
		"wrong serial": {pkcs11.Config{Module: soft.Module, Label: soft.Label, Serial: "0", PIN: soft.PIN()}, pkcs11.ErrTokenNotFound},
		"empty PIN":    {pkcs11.Config{Module: soft.Module, Label: soft.Label}, pkcs11.ErrPINIncorrect},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := pkcs11.Open(t.Context(), test.cfg); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestOtherProcess: a second process binds and uses the key this one made, and
// does not once it is destroyed.
func TestOtherProcess(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	tok := open(t, soft)
	key, err := tok.GenerateWrappingKey(t.Context(), request(1, ""))
	if err != nil {
		t.Fatal(err)
	}
	c := hsm.ShareContext(1, [32]byte{})
	e, err := hsm.Seal(c, secret.New([]byte("share for the child")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	job := childJob{Module: soft.Module, Label: soft.Label, PIN: soft.PIN().Expose(), Key: key, Context: c, Envelope: e}
	if r := startChild(t, "open", job)(); r.Opened != "share for the child" {
		t.Fatalf("%+v", r)
	}
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if r := startChild(t, "open", job)(); r.Opened != "" || !r.says("key not found") {
		t.Fatalf("after destroying: %+v", r)
	}
}
