//go:build cgo

package pkcs11_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

// elsewhere moves a folder out of its tree; back brings it back.
func elsewhere(t *testing.T, path string) (back func()) {
	t.Helper()
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
	}
}

func suiteRequest(version uint32, label string, suite hsm.Suite) pkcs11.KeyRequest {
	return pkcs11.KeyRequest{Domain: "default", Version: version, Label: label, Suites: []hsm.Suite{suite}}
}

// everyCall makes every kind of call; bound was used before, unbound was not.
func everyCall(t *testing.T, tok *pkcs11.Token, bound, unbound hsm.WrappingKey) map[string]error {
	t.Helper()
	c := hsm.ShareContext(1, [32]byte{})
	open := func(key hsm.WrappingKey) error {
		e, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, e)
		got.Wipe()
		return err
	}
	_, made := tok.GenerateWrappingKey(t.Context(), suiteRequest(9, "made while away", bound.Suite))
	_, found := tok.FindByLabel(t.Context(), bound.Label)
	return map[string]error{
		"open with a key in use":     open(bound),
		"open with an unbound key":   open(unbound),
		"bind":                       tok.Bind(t.Context(), unbound),
		"generate":                   made,
		"find by label":              found,
		"destroy":                    tok.DestroyWrappingKey(t.Context(), bound.ID),
		"destroy what was not there": tok.DestroyWrappingKey(t.Context(), make([]byte, 16)),
		"alive":                      tok.Alive(t.Context()),
	}
}

// TestSoftHSMTokenVanishes: the token's folder is moved away and back. While it
// is away no call says anything about keys or the PIN. SoftHSM 2.6.1 never looks
// at a token again in a process that noticed its absence, so that process is
// told to be replaced, and a new one works.
func TestSoftHSMTokenVanishes(t *testing.T) {
	for name, folder := range map[string]func(hsmtest.SoftToken) string{
		"all tokens": func(s hsmtest.SoftToken) string { return filepath.Join(s.Dir, "tokens") },
		"this token": func(s hsmtest.SoftToken) string {
			found, err := filepath.Glob(filepath.Join(s.Dir, "tokens", "*"))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			return found[0]
		},
	} {
		suites := []hsm.Suite{hsm.SuiteHPKEP256}
		if name == "this token" { // once is enough, RSA keys take their time
			suites = append(suites, hsm.SuiteRSA3072OAEPSHA1)
		}
		for _, suite := range suites {
			t.Run(name+"/"+suite.String(), func(t *testing.T) {
				soft := hsmtest.SoftHSM(t)
				softHSMTokenVanishes(t, soft, folder(soft), suite)
			})
		}
	}
}

func softHSMTokenVanishes(t *testing.T, soft hsmtest.SoftToken, folder string, suite hsm.Suite) {
	tok, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	key, err := tok.GenerateWrappingKey(t.Context(), suiteRequest(1, "key", suite))
	if err != nil {
		t.Fatal(err)
	}
	unbound := key
	unbound.Version, unbound.ID = 2, bytes.Repeat([]byte{0x77}, 16)
	unbound.PublicKey = plant(t, soft, unbound.ID, "key", suite)
	c := hsm.ShareContext(1, [32]byte{})
	e, err := hsm.Seal(c, secret.New([]byte("share")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	job := childJob{Module: soft.Module, Label: soft.Label, PIN: soft.PIN().Expose(), Key: key, Context: c, Envelope: e}

	// As long as nobody calls, nothing happens.
	elsewhere(t, folder)()
	if _, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, e); err != nil {
		t.Fatalf("after an absence that nobody noticed: %v", err)
	}

	gone := func(when string) {
		t.Helper()
		for call, err := range everyCall(t, tok, key, unbound) {
			if !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrNewProcess) {
				t.Errorf("%s: %s: %v", when, call, err)
			}
			for _, wrong := range []error{hsm.ErrKeyNotFound, hsm.ErrKeyMismatch, hsm.ErrOpen, hsm.ErrNoSuite, hsm.ErrPINIncorrect, hsm.ErrPINLocked} {
				if errors.Is(err, wrong) {
					t.Errorf("%s: %s blames something else: %v", when, call, err)
				}
			}
		}
	}
	back := elsewhere(t, folder)
	gone("away")
	gone("still away")
	if r := startChild(t, "open", job)(); r.Opened != "" || r.says("PIN") || r.says("key not found") || !(r.says("token not found") || r.says("module") || r.says("unavailable")) {
		t.Errorf("a new process while the token is away: %+v", r)
	}
	back()
	if err := tok.Alive(t.Context()); err == nil {
		t.Log("this SoftHSM recovers in the same process")
	} else {
		gone("back, same process")
	}
	if r := startChild(t, "open", job)(); r.Opened != "share" {
		t.Errorf("a new process after the token is back: %+v", r)
	}
	entries, err := filepath.Glob(filepath.Join(soft.Dir, "tokens", "*", "*.object"))
	if err != nil || len(entries) != 5 { // the token itself and two pairs
		t.Errorf("%d objects, %v", len(entries), err)
	}
}

// TestNSSDatabaseVanishes: NSS works on with the files it has open, so reading
// never notices; writing does, and says it was the token. It recovers by
// itself.
func TestNSSDatabaseVanishes(t *testing.T) {
	for _, suite := range []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256} {
		t.Run(suite.String(), func(t *testing.T) {
			nss := hsmtest.NSS(t)
			tok, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN(), Timeout: patience})
			if err != nil {
				t.Fatal(err)
			}
			defer tok.Close()
			key, err := tok.GenerateWrappingKey(t.Context(), suiteRequest(1, "key", suite))
			if err != nil {
				t.Fatal(err)
			}
			unbound := key
			unbound.Version, unbound.ID = 2, bytes.Repeat([]byte{0x77}, 16)
			c, _, s := nssSession(t, nss)
			unbound.PublicKey = hsmtest.PlantRaw(t, c, s, unbound.ID, "key", suite)

			back := elsewhere(t, nss.Dir)
			errs := everyCall(t, tok, key, unbound)
			for call, err := range errs {
				if err != nil && !errors.Is(err, hsm.ErrUnavailable) && call != "destroy what was not there" {
					t.Errorf("away: %s: %v", call, err)
				}
			}
			for _, writes := range []string{"generate", "destroy"} {
				if errs[writes] == nil {
					t.Errorf("away: %s worked on files that are not there", writes)
				}
			}
			back()
			errs = everyCall(t, tok, key, unbound)
			for call, err := range errs {
				switch call {
				case "destroy what was not there":
					if !errors.Is(err, hsm.ErrKeyNotFound) {
						t.Errorf("back: %s: %v", call, err)
					}
				default:
					if err != nil {
						t.Errorf("back: %s: %v", call, err)
					}
				}
			}
		})
	}
}
