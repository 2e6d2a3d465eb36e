//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
)

// TestNoModuleInPlugin: the plugin process maps no PKCS#11 module, every node
// does. Undumpable processes show their maps to root only.
func TestNoModuleInPlugin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT CHECKED: only root may read the maps of undumpable processes")
	}
	e := shared(t)
	e.create(t, "maps", bip340, 2, 3)
	e.sign(t, "maps", []byte("everything in use"))
	family := e.family(t)
	for _, p := range family {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID))
		if err != nil || len(maps) == 0 {
			t.Fatalf("%v: %v", p, err)
		}
		has := bytes.Contains(maps, []byte("libsofthsm2.so"))
		if isPlugin := p.PID == plugin(family).PID; has == isPlugin {
			t.Errorf("%v (plugin: %v): PKCS#11 module mapped: %v", p, isPlugin, has)
		}
	}
}

// TestProcessesShowNoSecrets: neither arguments nor environment of any process
// hold the PIN, and the nodes' environment is the allowed one.
func TestProcessesShowNoSecrets(t *testing.T) {
	e := shared(t)
	family := e.family(t)
	for _, p := range family {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		if err != nil && os.Geteuid() != 0 {
			t.Skipf("NOT CHECKED: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(env, []byte(e.Token.PIN)) || strings.Contains(strings.Join(p.Cmdline, " "), e.Token.PIN) {
			t.Errorf("%v shows the PIN", p)
		}
		if p.PID == plugin(family).PID {
			continue
		}
		// Not the file's path: it may have been replaced since Vault checked it.
		if p.Cmdline[0] != "/proc/self/exe" {
			t.Errorf("%v was not started from the running executable", p)
		}
		for _, kv := range strings.Split(strings.TrimRight(string(env), "\x00"), "\x00") {
			name, _, _ := strings.Cut(kv, "=")
			switch {
			case strings.HasPrefix(name, "PLUGIN_"), name == "VAULT_MPC_NODE": // go-plugin's own
			case name == "PATH", name == "HOME", name == "TMPDIR", name == "LD_LIBRARY_PATH", name == "SOFTHSM2_CONF", name == "MPC_PKCS11_MODULES", name == "MPC_AUTHORITY":
			default:
				t.Errorf("%v has %s in its environment", p, name)
			}
		}
	}
}

// TestNoShareInStorageOrLog tries every 32-byte window of everything the mount
// has stored, decoded in every way it may be encoded, and of Vault's log: none
// may be the private half of a public share.
func TestNoShareInStorageOrLog(t *testing.T) {
	e := shared(t)
	e.create(t, "secrecy", bip340, 2, 3)
	e.create(t, "secrecy-ecdsa", ecdsaCurve, 2, 3)
	publics := map[string]bool{} // x coordinates of all public shares, also of past epochs
	collect := func() {
		for _, name := range []string{"secrecy", "secrecy-ecdsa"} {
			for _, p := range publicShares(t, e.RawRead(t, e.path, "accounts/"+name)) {
				publics[string(p[1:33])] = true
			}
		}
	}
	collect()
	e.sign(t, "secrecy", []byte("a signature before looking"))
	e.waitAuxiliary(t)
	e.sign(t, "secrecy-ecdsa", []byte("and one by ECDSA"))
	e.write(t, "accounts/secrecy/refresh", nil)
	e.write(t, "accounts/secrecy-ecdsa/refresh", nil)
	collect()
	if len(publics) != 12 {
		t.Fatalf("%d public shares of two accounts in two epochs, want 12", len(publics))
	}

	var stored [][]byte
	for _, key := range e.RawList(t, e.path) {
		raw := e.RawRead(t, e.path, key)
		if strings.HasPrefix(key, "node-keys/") {
			raw = dropPublicAux(t, raw) // 85 KiB of public proofs a node
		}
		stored = append(stored, decodings(raw)...)
		if bytes.Contains(raw, []byte(e.Token.PIN)) != (key == "config/hsm") {
			t.Errorf("%s: the PIN belongs into config/hsm, which Vault seals, and nowhere else", key)
		}
	}
	log := e.Log(t)
	if bytes.Contains(log, []byte(e.Token.PIN)) {
		t.Error("the log holds the PIN")
	}
	stored = append(stored, decodings(log)...)
	if w := findShare(stored, publics); w != nil {
		t.Error("a private share lies in storage or in the log")
	}

	// The search itself: it must find a planted share, in each encoding.
	private := bytes.Repeat([]byte{0x42}, 32)
	x := secp256k1.PrivKeyFromBytes(private).PubKey().SerializeCompressed()[1:]
	for name, text := range map[string][]byte{
		"raw":    append([]byte("junk"), append(private, "junk"...)...),
		"hex":    []byte(`{"share":"` + hex.EncodeToString(private) + `"}`),
		"base64": []byte(`{"share":"` + base64.StdEncoding.EncodeToString(append([]byte("abc"), private...)) + `"}`),
	} {
		if findShare(decodings(text), map[string]bool{string(x): true}) == nil {
			t.Errorf("the search does not find a share planted as %s", name)
		}
	}
}

// findShare returns a 32-byte window whose public point has a wanted x.
func findShare(haystacks [][]byte, wanted map[string]bool) []byte {
	tried := map[[32]byte]bool{}
	for _, h := range haystacks {
		for i := 0; i+32 <= len(h); i++ {
			w := [32]byte(h[i : i+32])
			if tried[w] {
				continue
			}
			tried[w] = true
			var k secp256k1.ModNScalar
			if overflow := k.SetBytes(&w); overflow != 0 || k.IsZero() {
				continue
			}
			var p secp256k1.JacobianPoint
			secp256k1.ScalarBaseMultNonConst(&k, &p)
			p.ToAffine()
			if x := p.X.Bytes(); wanted[string(x[:])] {
				return w[:]
			}
		}
	}
	return nil
}

// decodings returns b, and what its JSON strings, base64 and hex runs hold.
func decodings(b []byte) [][]byte {
	out := [][]byte{b}
	isWord := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '='
	}
	for i := 0; i < len(b); {
		if !isWord(b[i]) {
			i++
			continue
		}
		j := i
		for j < len(b) && isWord(b[j]) {
			j++
		}
		word := string(b[i:j])
		if len(word) >= 43 {
			if d, err := base64.StdEncoding.DecodeString(word); err == nil {
				out = append(out, d)
			}
			if d, err := base64.RawStdEncoding.DecodeString(word); err == nil {
				out = append(out, d)
			}
			if d, err := hex.DecodeString(word); err == nil {
				out = append(out, d)
			}
		}
		i = j
	}
	return out
}

// publicShares reads the public shares out of an account's stored entry.
func publicShares(t *testing.T, raw []byte) [][]byte {
	t.Helper()
	var entry struct {
		Current struct {
			Record []byte `json:"record"`
		} `json:"current"`
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		t.Fatal(err)
	}
	record, err := mpc.ParsePublicRecord(entry.Current.Record)
	if err != nil {
		t.Fatal(err)
	}
	return record.PublicShares
}

// dropPublicAux removes a node's published proofs from its stored entry.
func dropPublicAux(t *testing.T, raw []byte) []byte {
	t.Helper()
	var entry map[string]any
	if err := json.Unmarshal(raw, &entry); err != nil {
		t.Fatal(err)
	}
	if aux, ok := entry["aux"].(map[string]any); ok {
		delete(aux, "public")
	}
	out, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
