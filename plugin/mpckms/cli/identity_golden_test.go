package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIdentityGolden: what people and programs see of identities, assets, devices
// and resets.
func TestIdentityGolden(t *testing.T) {
	who := &identityDoc{
		Name: "acme", ID: "00112233445566778899aabbccddeeff", Kind: "organization", Generation: 7, Changed: "2026-01-02T03:04:05Z",
		State: "frozen", Frozen: "2026-01-02T03:20:00Z", Reason: "looking into it", Unfinished: true, Assets: []string{"dns", "gold"},
		Roles:  []roleDoc{{"owner", 2, false}, {"payroll", 1, false}, {"web", 3, true}},
		Levels: []levelDoc{{"full", []string{"owner", "web"}, false}, {"visitors", []string{"web"}, true}},
		Grants: []grantDoc{
			{Authenticator: "ada", ID: "aa", Kind: "password", Level: "full", Roles: []string{"owner", "web"}, Fingerprint: "0011 2233", Granted: "2026-01-02T03:04:05Z", State: "active"},
			{Authenticator: "ben", ID: "bb", Kind: "phone", Level: "visitors", Roles: []string{"web"}, ServerTrusting: true, Custody: true, Fingerprint: "4455 6677", Granted: "2026-01-02T03:04:05Z", State: "lost"},
		},
	}
	asset := assetDoc{Asset: "acme/router", Kind: "secret", Generation: 3, Changed: "2026-01-02T03:04:05Z", Note: "in the cellar",
		Keys: []assetKeyDoc{{"password", 2, []string{"ops", "web"}, true}, {"user", 1, []string{"ops"}, false}}}
	reset := resetDoc{Identity: "acme", Lost: []string{"ada"}, Generation: 9, Roles: []string{"owner", "web"}, Assets: []string{"acme/dns", "acme/gold"}, Accounts: []string{"gold"},
		Change: []exposedKey{{"acme/dns", "value"}, {"acme/router", "password"}}, Untied: []string{"acme/new"},
		Kept: []string{"payroll"}, Open: []grantedDoc{{"ada-key", "full", "2026-01-02T03:04:05Z"}, {"ben", "visitors", "2026-01-02T03:04:05Z"}}}
	device := deviceDoc{Identity: "acme", Authenticator: "ben", Device: "00112233445566778899aabbccddeeff", Assets: 2, Synced: "2026-01-02T03:04:05Z"}
	for name, x := range map[string]struct {
		doc   any
		table func(*text)
	}{
		"identity_show":   {who, who.write},
		"identity_reset":  {reset, reset.write},
		"secret_put":      {asset, asset.write},
		"secret_list":     {secretListDoc{"acme", []assetDoc{asset}}, secretListDoc{"acme", []assetDoc{asset}}.write},
		"secret_list_not": {secretListDoc{"acme", []assetDoc{}}, secretListDoc{"acme", []assetDoc{}}.write},
		"device_bind":     {device, device.write},
	} {
		for _, format := range []string{"table", "json"} {
			var out bytes.Buffer
			a := newApp(Config{Stdout: &out, Stderr: &out})
			a.output = format
			if err := a.print(x.doc, x.table); err != nil {
				t.Fatal(err)
			}
			golden(t, name+"."+format, out.String())
		}
	}
}

// TestIdentityUsage: what is wrong with a command line is said before anything is
// asked or sent.
func TestIdentityUsage(t *testing.T) {
	s := engine(t)
	t.Setenv("MPCKMS_HOME", t.TempDir())
	for args, says := range map[string]string{
		"identity create":                            "name of the identity",
		"identity create Acme":                       "not the name of an identity",
		"identity create acme --kind robot":          "person, persona or organization",
		"identity create acme --role Web":            "not the name of a role",
		"identity create acme --level staff":         "NAME=ROLE,ROLE",
		"identity create acme --level staff=":        "not the name of a role",
		"identity create acme --level staff=web":     "which no --role makes",
		"identity grant acme ben --level Staff":      "not the name of a level",
		"identity create acme --server-trusting web": "which no --level makes",
		"identity level set acme staff":              "at least one role",
		"identity level set acme":                    "the level",
		"identity role add acme":                     "the role",
		"identity grant acme ben":                    "give --level",
		"identity reset acme":                        "--lost",
		"identity rotate":                            "name of the identity",
		"identity rotate acme --role Web":            "--role",
		"identity set-kind acme":                     "its kind",
		"identity set-kind acme robot":               "person, persona or organization",
		"identity set-kind Acme person":              "not the name of an identity",
		"authenticator change":                       "which authenticator",
		"authenticator change ada":                   "not known here",
		"authenticator change ada --authenticator b": "is changed by itself",
		"sign":                                      "which account",
		"sign gold":                                 "--input",
		"identity delete acme":                      "--confirm: nothing was deleted",
		"identity delete acme --confirm acne":       "--confirm: nothing was deleted",
		"secret put acme":                           "IDENTITY/ASSET",
		"secret put acme/a/b":                       "not the name of an asset",
		"secret put acme/dns --key A":               "not the name of a key",
		"secret put acme/dns":                       "no terminal",
		"secret put acme/dns --file -":              "1 to 32768 bytes",
		"secret put acme/dns --file /nowhere":       "cannot be read",
		"secret show acme":                          "IDENTITY/ASSET",
		"secret delete acme/dns":                    "--confirm: nothing was deleted",
		"secret list":                               "name of the identity",
		"device bind":                               "name of the identity",
		"device list acme":                          "unexpected argument",
		"account create x --algorithm y --role web": "--role goes with --custody",
	} {
		run(t, strings.Fields(args)...).want(t, 2, says)
	}
	for args, says := range map[string]string{
		"secret show acme/dns --offline": "not bound to identity",
		"device sync acme":               "not bound to identity",
		"device unbind acme":             "not bound to identity",
	} {
		run(t, strings.Fields(args)...).want(t, 1, says)
	}
	run(t, "device", "list").want(t, 0)
	run(t, "identity", "forget", "acme").want(t, 0)
	run(t, "secret", "forget", "acme/dns").want(t, 0)
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
	out := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "secret", "show", "acme/dns", "--out", out).want(t, 2, "exists already")
}
