//go:build e2e

package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
)

// TestAuthenticators makes one of each kind that needs no third party with the real
// mpckms, and logs in with it in another process and from another home.
func TestAuthenticators(t *testing.T) {
	e := enable(t, harness.Shared(t), "holders", 3)
	ada := newUser(t, e)
	password := ada.file(t, "password", "a river of stars\n")
	answer := ada.file(t, "answer", "Rex\n")

	ok(t, ada.admin(t, "authenticator", "create", "ada", "--kind", "password", "--ask", "First dog?", "--passphrase-file", password, "--answer-file", answer),
		"Authenticator ada was made", "Fingerprint")
	refusedWith(t, ada.run(t, "authenticator", "create", "ada-2", "--kind", "password", "--passphrase-file", password), 1, "permission denied")
	refusedWith(t, ada.run(t, "login", "--authenticator", "ada"), 2, "there is no terminal", "--passphrase-file")
	ok(t, ada.run(t, "login", "--passphrase-file", password, "--answer-file", answer), "It opens no identity yet")

	ok(t, ada.admin(t, "authenticator", "create", "ada-file", "--kind", "key-file", "--key-file", ada.path("ada.key")))
	owned(t, e, "acme", "ada", "ada-file")
	opens(t, ada.run(t, "login", "acme", "--authenticator", "ada", "--passphrase-file", password, "--answer-file", answer, "-o", "json"), "ada", "acme")
	opens(t, ada.run(t, "login", "--authenticator", "ada-file", "-o", "json"), "ada-file", "acme")
	// Both opened it by now, and nobody can be asked which one to take.
	refusedWith(t, ada.run(t, "login", "acme"), 2, "ada, ada-file", "--authenticator")

	// Another home knows nothing, and is told once.
	other := newUser(t, e)
	refusedWith(t, other.run(t, "login"), 2, "no authenticator is known")
	opens(t, other.run(t, "login", "--authenticator", "ada", "--kind", "password", "--passphrase-file", password, "--answer-file", answer, "-o", "json"), "ada", "acme")
	opens(t, other.run(t, "login", "acme", "--passphrase-file", password, "--answer-file", answer, "-o", "json"), "ada", "acme")

	// A wrong secret, another's file and a name that is nobody's look the same.
	wrong := ada.file(t, "wrong", "a river of staRs\n")
	for _, r := range []struct{ args []string }{
		{[]string{"login", "--authenticator", "ada", "--passphrase-file", wrong, "--answer-file", answer}},
		{[]string{"login", "--authenticator", "ada", "--passphrase-file", password, "--answer-file", wrong}},
		{[]string{"login", "--authenticator", "nobody", "--kind", "password", "--passphrase-file", password, "--answer-file", answer}},
	} {
		refusedWith(t, ada.run(t, r.args...), 1, "login failed")
	}
	refusedWith(t, other.run(t, "login", "--authenticator", "ada-file", "--kind", "key-file", "--key-file", other.file(t, "short", "MPC KEY FILE 1\nAAAA\n")), 1, "is not a key file")

	// Lost: it says so to who proves to be the owner, and works again when found.
	ok(t, ada.admin(t, "authenticator", "lost", "ada-file", "--reason", "left in a train"), "lost since", "left in a train")
	refusedWith(t, ada.run(t, "login", "--authenticator", "ada-file"), 1, "lost")
	ok(t, ada.admin(t, "authenticator", "found", "ada-file"), "active")
	opens(t, ada.run(t, "login", "--authenticator", "ada-file", "-o", "json"), "ada-file", "acme")
	refusedWith(t, ada.admin(t, "authenticator", "delete", "ada-file"), 1, "acme")
	ok(t, ada.admin(t, "authenticator", "list", "--all"), "acme-owner", "ada-file", ada.path("ada.key"))
	ok(t, ada.admin(t, "authenticator", "show", "ada"), "First dog?", "acme", "staff")

	// What the homes hold is for their owners, and no secret.
	err := filepath.Walk(ada.path("home"), func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if info.Mode().IsRegular() {
			if raw, err := os.ReadFile(path); err != nil || strings.Contains(string(raw), "river") || strings.Contains(string(raw), "Rex") {
				t.Errorf("%s holds a secret, or cannot be read: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestCertificateAuthenticators logs in with certificates in files and with keys
// that never leave a token: SoftHSM and NSS.
func TestCertificateAuthenticators(t *testing.T) {
	e := enable(t, harness.Shared(t), "cards", 3)
	ben := newUser(t, e)
	var names []string
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ben-ec": ec, "ben-rsa": rsaKey} {
		cert, private := ben.certificate(t, name, key)
		ok(t, ben.admin(t, "authenticator", "create", name, "--kind", "certificate", "--certificate", cert, "--key", private))
		names = append(names, name)
	}

	soft := hsmtest.SoftHSM(t)
	pin := soft.PIN()
	defer pin.Wipe()
	makeKeys(t, pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: pin}, hsm.SuiteHPKEP256)
	softUser := newUser(t, e, "SOFTHSM2_CONF="+soft.Conf, "MPC_PKCS11_MODULES=card="+soft.Module)
	softPIN := softUser.file(t, "pin", string(pin.Expose())+"\n")
	create := []string{"authenticator", "create", "soft-ec", "--kind", "certificate", "--module", "card", "--token", "pkcs11:token=mpc-test;object=person%201"}
	refusedWith(t, softUser.admin(t, create...), 2, "no terminal", "--token-pin-file")
	refusedWith(t, softUser.admin(t, append(create, "--token-pin-file", softUser.file(t, "wrong", "9999\n"))...), 1, "PIN")
	ok(t, softUser.admin(t, append(create, "--token-pin-file", softPIN)...))
	names = append(names, "soft-ec")

	nss := hsmtest.NSS(t)
	nssPIN := nss.PIN()
	defer nssPIN.Wipe()
	makeKeys(t, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nssPIN}, hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256)
	nssUser := newUser(t, e, "MPC_PKCS11_MODULES=card="+nss.Module+";init-args="+url.PathEscape(nss.InitArgs))
	nssFile := nssUser.file(t, "pin", string(nssPIN.Expose())+"\n")
	for name, object := range map[string]string{"nss-ec": "person%201", "nss-rsa": "person%202"} {
		ok(t, nssUser.admin(t, "authenticator", "create", name, "--kind", "certificate", "--module", "card",
			"--token", "pkcs11:token=NSS%20Certificate%20DB;object="+object, "--token-pin-file", nssFile))
		names = append(names, name)
	}

	owned(t, e, "acme", names...)
	for _, name := range []string{"ben-ec", "ben-rsa"} {
		opens(t, ben.run(t, "login", "--authenticator", name, "-o", "json"), name, "acme")
	}
	opens(t, softUser.run(t, "login", "acme", "--token-pin-file", softPIN, "-o", "json"), "soft-ec", "acme")
	for _, name := range []string{"nss-ec", "nss-rsa"} {
		opens(t, nssUser.run(t, "login", "--authenticator", name, "--token-pin-file", nssFile, "-o", "json"), name, "acme")
	}
	// Another key does not pass for it.
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, private := ben.certificate(t, "other", other)
	refusedWith(t, newUser(t, e).run(t, "login", "--authenticator", "ben-ec", "--kind", "certificate", "--certificate", cert, "--key", private), 1, "does not open authenticator ben-ec")
}

// certificate writes a self-signed certificate and its key.
func (u *user) certificate(t *testing.T, name string, key crypto.Signer) (cert, private string) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return u.file(t, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		u.file(t, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// makeKeys makes a key of each suite in a token, labelled "person 1" and so on.
func makeKeys(t *testing.T, cfg pkcs11.Config, suites ...hsm.Suite) {
	t.Helper()
	tok, err := pkcs11.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, suite := range suites {
		_, err := tok.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: "person", Version: uint32(i + 1), Label: "person " + string(rune('1'+i)), Suites: []hsm.Suite{suite}})
		if err != nil {
			t.Error(err)
		}
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPhoneAuthenticator has the code come over a webhook; the person types it.
func TestPhoneAuthenticator(t *testing.T) {
	e := enable(t, harness.Shared(t), "phones", 3)
	type message struct{ Phone, Code string }
	sent := make(chan message, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m message
		raw, err := io.ReadAll(r.Body)
		if err == nil && json.Unmarshal(raw, &m) == nil {
			sent <- m
		}
	}))
	defer hook.Close()
	e.write(t, "config/identities", map[string]any{"phone_webhook": hook.URL})
	cat := newUser(t, e)
	pin := cat.file(t, "pin", "8261\n")
	ok(t, cat.admin(t, "authenticator", "create", "cat", "--kind", "phone", "--phone", "+493012345", "--pin", "--pin-file", pin))
	ok(t, cat.admin(t, "authenticator", "create", "cat-trusting", "--kind", "phone", "--phone", "+493012346"), "server-trusting")
	owned(t, e, "acme", "cat", "cat-trusting")
	for name, phone := range map[string]string{"cat": "+493012345", "cat-trusting": "+493012346"} {
		login := func(change func(code string) string) *running {
			r := cat.start(t, "", "login", "--authenticator", name, "--pin-file", pin, "-o", "json")
			m := <-sent
			if m.Phone != phone {
				t.Errorf("the code of %s went to %s", name, m.Phone)
			}
			if _, err := io.WriteString(r.stdin, change(m.Code)+"\n"); err != nil {
				t.Error(err)
			}
			return r
		}
		opens(t, login(func(code string) string { return code }).wait(t), name, "acme")
		wrong := login(func(code string) string { return string('0'+('9'-code[0])) + code[1:] })
		if r := wrong.wait(t); r.Code != 1 {
			t.Errorf("with a wrong code: exit %d: %s", r.Code, r.Stderr)
		}
	}
}
