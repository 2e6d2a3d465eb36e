package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
)

const least = `name = "eu-1"
hsm {
  module = "/m.so"
  token = "t"
  pin_file = "/pin"
}
`

func TestSettings(t *testing.T) {
	s, err := ParseSettings("node.hcl", []byte(least))
	if err != nil {
		t.Fatal(err)
	}
	want := &Settings{Path: "node.hcl", Name: "eu-1", Domain: "default", Listen: "0.0.0.0:8300", StateDir: "/var/lib/mpc-node", DrainTimeout: 30 * time.Second,
		HSM: HSM{Module: "/m.so", Token: "t", PINFile: "/pin"}, Peers: map[string]mpc.NodeIdentity{}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("defaults: %+v", s)
	}
	key := strings.Repeat("ab", 32)
	s, err = ParseSettings("node.hcl", []byte(`
name = "eu-1" # a comment
region = "eu"
zone = ""
domain = "d"
listen = "[::1]:1"
state_dir = "/s"
authority = "`+key+`"
drain_timeout = "0s"
hsm {
  module = "/m.so"
  serial = "1"
  pin_file = "/pin"
  init_args = "configDir='/x'"
  allow_sha1 = true
}
tls {
  cert_file = "/c"
  key_file = "/k"
  client_ca_file = "/ca"
}
telemetry { listen = "127.0.0.1:2" }
switches {
  require_policy = true
  require_spread = true
  operations = ["sign", "refresh"]
  algorithms = ["ed25519"]
  keep_wrapping_keys = true
}
peer "a" { identity = "`+key+`" }
peer "b" { identity = "`+strings.Repeat("cd", 32)+`" }
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Region != "eu" || s.Domain != "d" || s.Listen != "[::1]:1" || s.StateDir != "/s" || len(s.Authority) != 32 || s.DrainTimeout != 0 ||
		s.HSM != (HSM{Module: "/m.so", Serial: "1", PINFile: "/pin", InitArgs: "configDir='/x'", AllowSHA1: true}) ||
		s.TLS != (TLS{"/c", "/k", "/ca"}) || s.Telemetry != "127.0.0.1:2" || len(s.Peers) != 2 || s.Peers["b"][0] != 0xcd ||
		!reflect.DeepEqual(s.Switches, node.Switches{RequirePolicy: true, RequireSpread: true, KeepWrappingKeys: true, Operations: []string{"sign", "refresh"}, Algorithms: []mpc.Algorithm{mpc.Ed25519}}) {
		t.Errorf("all keys: %+v", s)
	}
}

// TestSettingsAreRefused looks that each error names the file, the line or key, and
// what to write.
func TestSettingsAreRefused(t *testing.T) {
	key := strings.Repeat("ab", 32)
	for text, says := range map[string][]string{
		"":                  {"name is missing", "eu-1"},
		"name = \"eu-1\"\n": {"hsm.module is missing"},
		"name = eu":         {"not HCL"},
		strings.Replace(least, "eu-1", "local-7", 1):                                 {"name: write", "nodes on Vault's host"},
		least + "nam = \"x\"":                                                        {"node.hcl:7: nam: is no key here; there are authority, domain"},
		least + "name = \"x\"":                                                       {"node.hcl:7: name: is there twice"},
		least + "region = \"E\"":                                                     {"node.hcl:7: region: write 1 to 48 characters"},
		least + "region = 5":                                                         {"node.hcl:7: region: write"},
		least + "listen = \"x\"":                                                     {"listen: write host:port"},
		least + "listen = \"x:99999\"":                                               {"listen: write host:port"},
		least + "state_dir = \"x\"":                                                  {"state_dir: write an absolute path"},
		least + "state_dir = \"/x/../y\"":                                            {"state_dir: write an absolute path"},
		least + "state_dir = \"/" + strings.Repeat("x", 100) + "\"":                  {"state_dir has 101 bytes"},
		least + "authority = \"abcd\"":                                               {"authority: write", "64 hex digits"},
		least + "drain_timeout = \"soon\"":                                           {"drain_timeout: write", "30s"},
		least + "drain_timeout = \"-1s\"":                                            {"drain_timeout"},
		least + "hsm { token = \"x\" }":                                              {"node.hcl:7: hsm: is there twice"},
		least + "tls = \"x\"":                                                        {"tls: is a block"},
		least + "tls \"x\" { }":                                                      {"tls: takes no label"},
		least + "tls { cert_file = \"/x\" }":                                         {"cert_file and tls.key_file go together"},
		least + "tls { pin = \"1\" }":                                                {"node.hcl:7: tls.pin: is no key here"},
		least + "switches { require_policy = \"yes\" }":                              {"switches.require_policy: write true or false"},
		least + "switches { operations = \"sign\" }":                                 {"switches.operations: write a list"},
		least + "switches { operations = [\"sgin\"] }":                               {`"sgin" is not known`, "keygen"},
		least + "switches { algorithms = [\"rsa\"] }":                                {`"rsa" is not known`},
		least + "peer { identity = \"" + key + "\" }":                                {"peer: write one name"},
		least + "peer \"x\" { }":                                                     {"identity is missing"},
		least + "peer \"x\" { identity = \"12\" }":                                   {`peer "x".identity: write the node's identity, 64 hex`},
		least + "peer \"eu-1\" { identity = \"" + key + "\" }":                       {"this node itself"},
		least + strings.Repeat("peer \"x\" { identity = \""+key+"\" }\n", 2):         {"node.hcl:8", "twice"},
		strings.Replace(least, "pin_file = \"/pin\"", "pin = \"secret-pin-123\"", 1): {"hsm.pin: is no key here", "pin_file"},
		strings.Replace(least, "token = \"t\"", "", 1):                               {"hsm.token is missing"},
		strings.Replace(least, "\"/pin\"", "\"pin\"", 1):                             {"hsm.pin_file: write an absolute path"},
	} {
		s, err := ParseSettings("node.hcl", []byte(text))
		if err == nil || s != nil || !errors.Is(err, ErrSettings) || ExitCode(err) != ExitSettings {
			t.Errorf("%q: %+v, %v", text, s, err)
			continue
		}
		for _, want := range append(says, "node.hcl") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error %q does not say %q", text, err, want)
			}
		}
		if strings.Contains(err.Error(), "secret-pin") {
			t.Errorf("the error quotes a PIN in the wrong place: %v", err)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := LoadSettings(path); !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestExampleSettings(t *testing.T) {
	path := filepath.Join("..", "..", "scripts", "deploy", "node.hcl")
	s, err := LoadSettings(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "eu-1" || s.Domain != "eu" || s.Telemetry == "" || s.HSM.PINFile != "/etc/mpc-node/pin" {
		t.Errorf("read %+v", s)
	}
	// What is commented out has to be right, too, once its dots are filled in.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok && (strings.Contains(rest, " = ") || strings.HasPrefix(rest, "peer ") || rest == "}") {
			line = strings.ReplaceAll(rest, "…", strings.Repeat("ab", 32)) + "\n"
		}
		lines = append(lines, line)
	}
	if s, err = ParseSettings(path, []byte(strings.Join(lines, ""))); err != nil {
		t.Fatal(err)
	}
	if len(s.Peers) != 1 || s.TLS.ClientCAFile == "" || s.Authority == nil {
		t.Errorf("read %+v", s)
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add(least)
	f.Add("peer \"x\" { identity = \"\" }")
	f.Add("switches { operations = [")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSettings("node.hcl", []byte(text))
		if (s == nil) != (err != nil) {
			t.Fatalf("settings %v with error %v", s, err)
		}
		if err == nil && (s.Name == "" || s.HSM.Module == "" || s.HSM.PINFile == "" || !filepath.IsAbs(s.StateDir)) {
			t.Fatalf("incomplete settings pass: %+v", s)
		}
	})
}
