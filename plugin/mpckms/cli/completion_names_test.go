package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// Names of people and what is theirs: those that the server lists for the token and
// those that this home knows.
func TestCompletionOfPeople(t *testing.T) {
	s := engine(t)
	home := filepath.Join(t.TempDir(), "home")
	t.Setenv(envHome, home)
	s.on("LIST mpc/identities", data(`{"keys":["acme","ada"]}`))
	s.on("LIST mpc/identities/acme/assets", data(`{"keys":["dns","gold","../x"]}`))
	s.on("LIST mpc/authenticators", data(`{"keys":["ada-key","ben"]}`))
	s.on("LIST mpc/approvers", data(`{"keys":["alice","ben"]}`))
	const id = "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f"
	s.on("LIST mpc/requests", data(`{"keys":["`+id+`"]}`))
	check := func(tests [][2]string) {
		t.Helper()
		for _, test := range tests {
			args := strings.Split(test[0], " ")
			if got := strings.Join(completions(t, args...), " "); got != test[1] {
				t.Errorf("%s: %q, want %q", test[0], got, test[1])
			}
		}
	}
	check([][2]string{
		{"identity show ", "acme ada"}, {"identity show ac", "acme"}, {"identity show acme ", ""}, {"identity delete a", "acme ada"}, {"identity freeze ac", "acme"},
		{"identity unfreeze ac", "acme"}, {"identity forget ac", "acme"}, {"identity reset ac", "acme"}, {"identity role add ac", "acme"}, {"identity role remove ac", "acme"},
		{"identity rotate ac", "acme"}, {"identity level set ac", "acme"}, {"identity level remove ac", "acme"}, {"identity set-kind ac", "acme"}, {"identity set-kind acme ", "person persona organization"},
		{"identity grant ", "acme ada"}, {"identity grant acme ", "ada-key ben"}, {"identity revoke acme a", "ada-key"}, {"identity revoke acme ben ", ""},
		{"identity reset acme --lost a", "ada-key"}, {"identity create ", ""},
		{"device bind ac", "acme"}, {"device sync ac", "acme"}, {"device unbind ac", "acme"}, {"login ac", "acme"},
		{"secret list ac", "acme"}, {"secret show ac", "acme/"}, {"secret put acme/", "acme/dns acme/gold"}, {"secret delete acme/g", "acme/gold"}, {"secret forget acme/d", "acme/dns"},
		{"secret show ../sys/", ""}, {"account create x --custody acme/g", "acme/gold"},
		{"authenticator show ", "ada-key ben"}, {"authenticator change a", "ada-key"}, {"authenticator lost a", "ada-key"}, {"authenticator found a", "ada-key"},
		{"authenticator unlock a", "ada-key"}, {"authenticator delete a", "ada-key"}, {"authenticator forget a", "ada-key"}, {"authenticator show ben ", ""}, {"authenticator create ", ""},
		{"sign treasury --authenticator b", "ben"}, {"identity show acme --authenticator a", "ada-key"},
		{"approver show ", "alice ben"}, {"approver enrol al", "alice"}, {"approver confirm al", "alice"}, {"approver totp al", "alice"}, {"approver delete al", "alice"},
		{"approver create x --identity a", "acme ada"}, {"account policy set hot --approver b", "ben"}, {"account create x --approver al", "alice"},
		{"request show ", id}, {"request wait 5", id}, {"request cancel 6", ""}, {"request qr 5", id},
	})
	if _, err := os.Stat(home); !os.IsNotExist(err) {
		t.Fatalf("completion made %s: %v", home, err)
	}

	h, err := keyholder.OpenHome(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []keyholder.Known{{Name: "ada-key", Method: identity.Password, Identities: []string{"acme", "attic"}}, {Name: "zoe", Method: identity.Password}} {
		if err := h.SetAuthenticator(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.SetBinding("bunker", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	known := [][2]string{{"identity show ", "acme ada attic bunker"}, {"authenticator show ", "ada-key ben zoe"}, {"secret show b", "bunker/"}}
	check(known)
	// Without the right to list, and without a server, what is known here is left.
	local := [][2]string{{"identity show ", "acme attic bunker"}, {"authenticator show ", "ada-key zoe"}, {"secret show acme/", ""}, {"approver show ", ""}}
	for _, path := range []string{"identities", "authenticators", "approvers", "identities/acme/assets"} {
		s.on("LIST mpc/"+path, fails(403, "permission denied"))
	}
	check(local)
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	check(local)
}
