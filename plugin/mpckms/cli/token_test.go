package cli

import (
	"errors"
	"strings"
	"testing"
)

func TestTokenSources(t *testing.T) {
	s := engine(t)
	stored := func() (string, error) { return "hvs.stored-token-9876", nil }
	runConfig(t, Config{Args: []string{"account", "list"}, StoredToken: stored}).want(t, 0)
	t.Setenv("VAULT_TOKEN", "")
	runConfig(t, Config{Args: []string{"account", "list"}, StoredToken: stored}).want(t, 0)
	calls := s.called("LIST mpc/accounts")
	if len(calls) != 2 || calls[0].token != testToken || calls[1].token != "hvs.stored-token-9876" {
		t.Errorf("VAULT_TOKEN should win over the stored token: %+v", calls)
	}

	broken := func() (string, error) { return "", errors.New("helper failed") }
	runConfig(t, Config{Args: []string{"account", "list"}, StoredToken: broken}).want(t, 2, "helper failed", "vault login")

	s.on("LIST mpc/accounts", fails(403, "permission denied"))
	run(t, "account", "list").want(t, 1, "No token was sent")
}

// run itself checks that the token is never printed; here the server tries.
func TestTokenEchoedByServer(t *testing.T) {
	s := engine(t)
	s.on("LIST mpc/accounts", fails(400, "bad header X-Vault-Token: "+testToken))
	run(t, "account", "list").want(t, 1, "X-Vault-Token: [token]")
	s.on("LIST mpc/accounts", raw(502, "upstream said "+testToken))
	t.Setenv("VAULT_MAX_RETRIES", "0")
	run(t, "account", "list").want(t, 1, "does not come from Vault")
	s.on("GET mpc/accounts/treasury", data(`{"last_refresh_error":"`+testToken+`","public_key_hex":"02"}`))
	for _, format := range []string{"table", "json"} {
		if res := run(t, "account", "show", "treasury", "-o", format); !strings.Contains(res.stdout, "[token]") {
			t.Errorf("stdout lacks the struck-out token: %s", res.stdout)
		}
	}
}
