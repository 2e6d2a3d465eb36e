//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"crypto"
	stdecdsa "crypto/ecdsa"
	stded25519 "crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	mpcclient "vault-plugin-secrets-mpc/client"
)

// goEnv lets the go command work in a shell of its own, without fetching anything
// it has already.
func goEnv(t testing.TB) []string {
	t.Helper()
	names := []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GONOSUMDB", "GOFLAGS"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	env := []string{"CGO_ENABLED=0"} // programs that use the client need none
	for i, value := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		if value != "" {
			env = append(env, names[i]+"="+value)
		}
	}
	return env
}

// clientOf returns the Go client as a program of somebody else's would make it.
func clientOf(t testing.TB, e *engine) *mpcclient.Client {
	t.Helper()
	vault, err := e.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	vault.SetToken(e.RootToken)
	return mpcclient.New(vault, e.path)
}

// TestClientExamples runs the examples of the client's documentation.
func TestClientExamples(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	source, err := os.ReadFile(filepath.Join(repository, "client", "example_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	promised := promises{ // example → what it prints
		"Example":                 `^ed25519, 2 of 3, signed by 2 nodes: valid=true\n$`,
		"ExampleClient_Sign":      `^64 bytes, replayed=false\n64 bytes, replayed=true\nanother input: conflict true\n$`,
		"ExampleClient_SignBatch": `^1: 64 bytes\n2: invalid=true\n$`,
		"ExampleClient_Accounts":  `^example-orders ed25519 3\n$`,
		"ExampleClient_Signer":    `^CN=Example CA ECDSA-SHA256 true\n$`,
		"ExampleSignature_RSV":    `^true true true\n$`,
		"ExampleClient_Delete":    `^deleted true true\nactive\n$`,
	}
	out := newShell(t, e.Vault, append(goEnv(t), "MPC_CLIENT_EXAMPLES=1")...).
		run(t, "go test -count=1 -timeout 6m -v -run '^TestExamples$' ./client", "")
	printed := map[string]string{}
	name := ""
	for line := range strings.Lines(out) {
		switch first, rest, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case first == "=":
			name = rest
		case strings.HasPrefix(first, "---"):
			name = ""
		case name != "":
			printed[name] += line
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^func (Example\w*)\(`).FindAllStringSubmatch(string(source), -1) {
		pattern, known := promised[m[1]]
		if !known {
			t.Errorf("%s: say here what it prints", m[1])
		} else if !regexp.MustCompile(pattern).MatchString(printed[m[1]]) {
			t.Errorf("%s should print %s:\n%s", m[1], pattern, printed[m[1]])
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestClientPackageSigns: every format, checked without the engine.
func TestClientPackageSigns(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	c, ctx := clientOf(t, e), t.Context()
	message := []byte("from the Go client")
	digest := sha256.Sum256(message)
	for _, tt := range []struct {
		name      string
		algorithm mpcclient.Algorithm
		formats   []mpcclient.SignatureFormat
	}{
		{"gocli-ed", mpcclient.Ed25519, []mpcclient.SignatureFormat{"", mpcclient.FormatCompact, mpcclient.FormatJWS}},
		{"gocli-bip340", mpcclient.BIP340Secp256k1, []mpcclient.SignatureFormat{"", mpcclient.FormatCompact}},
		{"gocli-p256", mpcclient.ECDSAP256, []mpcclient.SignatureFormat{"", mpcclient.FormatDER, mpcclient.FormatCompact, mpcclient.FormatJWS}},
		{"gocli-k256", mpcclient.ECDSASecp256k1, []mpcclient.SignatureFormat{"", mpcclient.FormatEthereum}},
	} {
		account, err := c.CreateAccount(ctx, tt.name, mpcclient.CreateOptions{Algorithm: tt.algorithm, Metadata: map[string]string{"team": "gocli"}})
		if err != nil || account.SessionID == "" || account.State != mpcclient.StateActive || account.ShareEpoch != 1 || account.RefreshPeriod < time.Second || time.Since(account.CreatedTime) > time.Hour {
			t.Fatalf("%s: %+v, %v", tt.name, account, err)
		}
		for _, format := range tt.formats {
			sig, err := c.Sign(ctx, tt.name, mpcclient.SignRequest{Input: message, Format: format})
			if err != nil {
				t.Errorf("%s as %q: %v", tt.name, format, err)
				continue
			}
			native := sig.Bytes
			if tt.algorithm == mpcclient.ECDSAP256 || tt.algorithm == mpcclient.ECDSASecp256k1 {
				if !bytes.Equal(sig.Digest, digest[:]) || sig.RecoveryID < 0 {
					t.Errorf("%s as %q: %+v", tt.name, format, sig)
				}
				if format != "" && format != mpcclient.FormatDER {
					if !bytes.Equal(slices.Concat(sig.R, sig.S), sig.Bytes[:64]) {
						t.Errorf("%s as %q: %x", tt.name, format, sig.Bytes)
					}
					native = nil
				}
			}
			if native != nil {
				if err := verifySignature(string(tt.algorithm), hexOf(account.PublicKey), account.PublicKeyPEM, message, native); err != nil {
					t.Errorf("%s as %q: %v", tt.name, format, err)
				}
			}
			for _, of := range [][]byte{message, []byte("something else")} {
				valid, err := c.Verify(ctx, tt.name, mpcclient.VerifyRequest{Input: of, Format: format, Signature: sig.Bytes})
				if err != nil || valid != bytes.Equal(of, message) {
					t.Errorf("verify %s as %q of %q: %v, %v", tt.name, format, of, valid, err)
				}
			}
		}
	}
	t.Run("derive", func(t *testing.T) {
		key := mpcclient.Key{DerivationPath: "m/3"}
		child, err := c.Derive(ctx, "gocli-k256", key)
		if err != nil || child.Key != key {
			t.Fatalf("%+v, %v", child, err)
		}
		sig, err := c.Sign(ctx, "gocli-k256", mpcclient.SignRequest{Input: message, DerivationPath: key.DerivationPath})
		if err != nil || !bytes.Equal(sig.PublicKey, child.PublicKey) {
			t.Fatalf("%+v, %v", sig, err)
		}
		if err := verifySignature(ecdsaCurve, hexOf(child.PublicKey), child.PublicKeyPEM, message, sig.Bytes); err != nil {
			t.Error(err)
		}
	})
	t.Run("batch", func(t *testing.T) {
		items := make([]mpcclient.BatchItem, 20)
		for i := range items {
			items[i] = mpcclient.BatchItem{SignRequest: mpcclient.SignRequest{Input: []byte{byte(i + 1)}, RequestID: mpcclient.NewRequestID()}, Reference: string(rune('a' + i))}
		}
		items[7].HashAlgorithm = mpcclient.Keccak256 // Ed25519 takes none
		account, err := c.Account(ctx, "gocli-ed")
		if err != nil {
			t.Fatal(err)
		}
		results, err := c.SignBatch(ctx, "gocli-ed", items)
		if err != nil || len(results) != len(items) {
			t.Fatalf("%v, %v", results, err)
		}
		for i, r := range results {
			switch {
			case r.Reference != items[i].Reference:
				t.Errorf("%d: reference %q", i, r.Reference)
			case i == 7:
				if !errors.Is(r.Err, mpcclient.ErrInvalid) || r.Signature != nil {
					t.Errorf("%d: %+v", i, r)
				}
			case r.Err != nil || !stded25519.Verify(account.PublicKey, items[i].Input, r.Signature.Bytes):
				t.Errorf("%d: %+v", i, r)
			}
		}
		for i := range items { // none goes well: an error status with results
			items[i].HashAlgorithm = mpcclient.Keccak256
			items[i].RequestID = ""
		}
		results, err = c.SignBatch(ctx, "gocli-ed", items)
		if err != nil || slices.ContainsFunc(results, func(r mpcclient.BatchResult) bool { return !errors.Is(r.Err, mpcclient.ErrInvalid) }) {
			t.Errorf("%+v, %v", results, err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		_, unknown := c.Account(ctx, "gocli-nobody")
		_, differs := c.CreateAccount(ctx, "gocli-ed", mpcclient.CreateOptions{Algorithm: mpcclient.ECDSAP256})
		_, noMount := mpcclient.New(e.Client, "nowhere").Sign(ctx, "x", mpcclient.SignRequest{Input: message})
		_, invalid := c.Sign(ctx, "gocli-ed", mpcclient.SignRequest{Input: message, Format: mpcclient.FormatDER})
		stranger, err := e.Client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		stranger.SetToken("hvs.nobody")
		_, denied := mpcclient.New(stranger, e.path).Account(ctx, "gocli-ed")
		for name, tt := range map[string]struct{ err, is error }{
			"an unknown account": {unknown, mpcclient.ErrNotFound}, "another algorithm": {differs, mpcclient.ErrInvalid},
			"no mount": {noMount, mpcclient.ErrNotFound}, "a wrong format": {invalid, mpcclient.ErrInvalid}, "a wrong token": {denied, mpcclient.ErrDenied},
		} {
			if !errors.Is(tt.err, tt.is) || strings.Contains(tt.err.Error(), "occurred") {
				t.Errorf("%s: %v", name, tt.err)
			}
		}
		again, err := c.CreateAccount(ctx, "gocli-ed", mpcclient.CreateOptions{Algorithm: mpcclient.Ed25519})
		if err != nil || again.SessionID != "" {
			t.Errorf("creating again: %+v, %v", again, err)
		}
	})
	t.Run("refresh", func(t *testing.T) {
		got, err := c.Refresh(ctx, "gocli-ed")
		if err != nil || got.ShareEpoch < 2 || got.SessionID == "" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// TestClientPackageKeys: addresses, JWK and certificate requests.
func TestClientPackageKeys(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	c, ctx := clientOf(t, e), t.Context()
	create := func(name string, algorithm mpcclient.Algorithm) *mpcclient.Account {
		t.Helper()
		a, err := c.CreateAccount(ctx, name, mpcclient.CreateOptions{Algorithm: algorithm})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	taproot, p256 := create("gokeys-bip340", mpcclient.BIP340Secp256k1), create("gokeys-p256", mpcclient.ECDSAP256)
	got, err := c.Addresses(ctx, "gokeys-bip340", mpcclient.AddressOptions{})
	if err != nil || !strings.HasPrefix(got.ByKind[mpcclient.AddressBitcoinP2TR], "bc1p") || got.TaprootTweak != "bip86" {
		t.Fatalf("%+v, %v", got, err)
	}
	if taproot.Addresses[mpcclient.AddressBitcoinP2TR] != got.ByKind[mpcclient.AddressBitcoinP2TR] {
		t.Errorf("the account says %v, addresses %v", taproot.Addresses, got.ByKind)
	}
	child, err := c.Addresses(ctx, "gokeys-bip340", mpcclient.AddressOptions{Key: mpcclient.Key{DerivationPath: "m/1"}})
	if err != nil || child.ByKind[mpcclient.AddressBitcoinP2TR] == got.ByKind[mpcclient.AddressBitcoinP2TR] {
		t.Errorf("%+v, %v", child, err)
	}
	if _, err := c.Addresses(ctx, "gokeys-p256", mpcclient.AddressOptions{}); !errors.Is(err, mpcclient.ErrInvalid) {
		t.Errorf("addresses of P-256: %v", err)
	}

	jwk, err := c.JWK(ctx, "gokeys-p256", "")
	if err != nil || jwk.Algorithm != "ES256" || jwk.Curve != "P-256" || jwk.KeyID == "" {
		t.Fatalf("%+v, %v", jwk, err)
	}
	key := parsedKey(t, p256.PublicKeyPEM).(*stdecdsa.PublicKey)
	if point, err := key.Bytes(); err != nil || jwk.X != base64.RawURLEncoding.EncodeToString(point[1:33]) || jwk.Y != base64.RawURLEncoding.EncodeToString(point[33:]) {
		t.Errorf("%+v is not %x", jwk, point)
	}

	made, err := c.CSR(ctx, "gokeys-p256", mpcclient.CSRRequest{CommonName: "gokeys", Organization: []string{"A"}, AltNames: []string{"gokeys.example"}})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(made.PEM)
	if block == nil || made.PublicKeyPEM != p256.PublicKeyPEM {
		t.Fatalf("%+v", made)
		return // staticcheck does not know that Fatalf of a TB ends here
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "gokeys" || !slices.Equal(csr.DNSNames, []string{"gokeys.example"}) || !key.Equal(csr.PublicKey) {
		t.Errorf("%+v, %v", csr, err)
	}
}

func parsedKey(t testing.TB, text string) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %s", text)
		return nil // staticcheck does not know that Fatalf of a TB ends here
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestClientPackageLifecycle: freeze to rename, and listing.
func TestClientPackageLifecycle(t *testing.T) {
	e := shared(t)
	c, ctx := clientOf(t, e), t.Context()
	for _, name := range []string{"golife-a", "golife-b", "golife-c"} {
		if _, err := c.CreateAccount(ctx, name, mpcclient.CreateOptions{Algorithm: mpcclient.Ed25519, Metadata: map[string]string{"life": name[7:]}}); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(name string) error {
		_, err := c.Sign(ctx, name, mpcclient.SignRequest{Input: []byte(rand.Text())})
		return err
	}
	a, err := c.Freeze(ctx, "golife-a", "audit")
	if err != nil || a.State != mpcclient.StateFrozen || a.FrozenReason != "audit" || a.FrozenTime.IsZero() {
		t.Errorf("freeze: %+v, %v", a, err)
	}
	if err := sign("golife-a"); !errors.Is(err, mpcclient.ErrConflict) || errors.Is(err, mpcclient.ErrAuxiliaryKeysPending) {
		t.Errorf("signing with a frozen account: %v", err)
	}
	list := func(f mpcclient.Filter) (names []string) {
		t.Helper()
		for a, err := range c.Accounts(ctx, f) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, a.Name)
		}
		return names
	}
	if got := list(mpcclient.Filter{Prefix: "golife-", State: mpcclient.StateFrozen}); !slices.Equal(got, []string{"golife-a"}) {
		t.Errorf("frozen: %v", got)
	}
	if got := list(mpcclient.Filter{Prefix: "golife-", PageSize: 1}); !slices.Equal(got, []string{"golife-a", "golife-b", "golife-c"}) {
		t.Errorf("in pages of one: %v", got)
	}
	if got := list(mpcclient.Filter{Metadata: "life=b"}); !slices.Equal(got, []string{"golife-b"}) {
		t.Errorf("by metadata: %v", got)
	}
	if got := list(mpcclient.Filter{Prefix: "golife-none"}); got != nil {
		t.Errorf("nothing: %v", got)
	}
	if a, err = c.Unfreeze(ctx, "golife-a"); err != nil || a.State != mpcclient.StateActive || sign("golife-a") != nil {
		t.Errorf("unfreeze: %+v, %v", a, err)
	}
	if a, err = c.Delete(ctx, "golife-b", mpcclient.DeleteOptions{After: 20 * 24 * time.Hour}); err != nil || a.State != mpcclient.StateDeleted || time.Until(a.DestroyTime) < 19*24*time.Hour {
		t.Errorf("delete: %+v, %v", a, err)
	}
	if err := sign("golife-b"); !errors.Is(err, mpcclient.ErrConflict) {
		t.Errorf("signing with a deleted account: %v", err)
	}
	if a, err = c.Restore(ctx, "golife-b"); err != nil || a.State != mpcclient.StateActive || sign("golife-b") != nil {
		t.Errorf("restore: %+v, %v", a, err)
	}
	if a, err = c.Rename(ctx, "golife-c", "golife-d"); err != nil || a.Name != "golife-d" || sign("golife-d") != nil {
		t.Errorf("rename: %+v, %v", a, err)
	}
	if _, err := c.Account(ctx, "golife-c"); !errors.Is(err, mpcclient.ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
}

// deadline is for what a test waits for besides the engine.
func deadline(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
