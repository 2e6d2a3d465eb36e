//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/secret"
)

// TestNSS runs the suite on a second, independent implementation. NSS softokn
// takes its configuration as an argument of C_Initialize, which Config does not
// offer: it is here to keep us from believing that every module is SoftHSM.
func TestNSS(t *testing.T) {
	const pin = "nss test pin"
	var path string
	for _, p := range []string{"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so"} {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	certutil, err := exec.LookPath("certutil")
	if err != nil || path == "" {
		const missing = "NSS is not installed (apt-get install libnss3 libnss3-tools)"
		if os.Getenv(hsmtest.RequireSoftHSM) == "1" {
			t.Fatal(missing + ", and " + hsmtest.RequireSoftHSM + "=1 demands every token")
		}
		t.Skip(missing)
	}
	dir := t.TempDir()
	pinFile := filepath.Join(dir, "pin")
	if err := os.WriteFile(pinFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), certutil, "-N", "-d", "sql:"+dir, "-f", pinFile).CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v\n%s", err, out)
	}
	c := p11.New(path)
	if c == nil {
		t.Fatal("NSS does not load")
	}
	arguments := []byte("configDir='sql:" + dir + "' certPrefix='' keyPrefix='' secmod='secmod.db' flags=\x00")
	var pinner runtime.Pinner
	pinner.Pin(&arguments[0])
	defer pinner.Unpin()
	if err := c.Initialize(p11.InitializeWithReserved(unsafe.Pointer(&arguments[0]))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Finalize(); err != nil {
			t.Error(err)
		}
	})
	hsmtest.Run(t, hsmtest.Harness{
		Label: "NSS Certificate DB", PIN: pin,
		Open: func(ctx context.Context, label string, pin *secret.Bytes) (hsmtest.Token, error) {
			tok, err := open(ctx, Config{Module: path, Label: label, PIN: pin}, func(string) (module, error) { return c, nil })
			if err != nil {
				return nil, err
			}
			return tok, nil
		},
		// No Plant: NSS replaces a key pair when another one gets its ID.
	})
	if _, err := c.GetSlotList(true); errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
		t.Error("the package finalised the module")
	}
}
