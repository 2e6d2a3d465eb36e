package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*server)
		code   int
		stdout []string
		stderr []string
	}{
		{"degraded but ready", func(*server) {}, 0, []string{"node local-3 is restarting"}, nil},
		{"sealed", func(s *server) {
			s.on("GET sys/health", raw(299, `{"initialized":true,"sealed":true,"version":"1.21.0"}`))
		},
			1, []string{"State    sealed"}, []string{"Vault is sealed", "vault operator unseal"}},
		{"not initialized", func(s *server) {
			s.on("GET sys/health", raw(299, `{"initialized":false,"sealed":true,"version":"1.21.0"}`))
		},
			1, []string{"not initialized"}, []string{"vault operator init"}},
		{"not Vault", func(s *server) { s.on("GET sys/health", raw(200, "<html>")) },
			1, []string{"not reachable"}, []string{"does not come from Vault", "VAULT_ADDR"}},
		{"not Vault, JSON", func(s *server) { s.on("GET sys/health", raw(200, `{"status":"up"}`)) },
			1, []string{"not reachable"}, []string{"does not come from Vault"}},
		{"mount missing", func(s *server) {
			s.on("GET sys/internal/ui/mounts/mpc", fails(403, `preflight capability check returned 403, please ensure client's policies grant access to path "mpc/"`))
			s.on("GET sys/mounts/mpc", fails(400, "No secret engine mount at mpc/"))
		}, 1, []string{"not enabled"}, []string{"vault secrets enable -path=mpc mpc"}},
		{"mount hidden, engine readable", func(s *server) {
			s.on("GET sys/internal/ui/mounts/mpc", fails(403, "permission denied"))
			s.on("GET sys/mounts/mpc", fails(403, "permission denied"))
		}, 0, []string{"State  unknown", "the token may not see"}, nil},
		{"other engine", func(s *server) { s.on("GET sys/internal/ui/mounts/mpc", data(`{"type":"kv"}`)) },
			0, []string{`type is "kv"`}, nil},
		{"HSM for operators only", func(s *server) { s.on("GET mpc/config/hsm", fails(403, "permission denied")) },
			0, []string{"not readable with this token"}, nil},
		{"HSM not configured", func(s *server) {
			s.on("GET mpc/config/hsm", fails(404))
			s.on("LIST mpc/nodes", fails(400, "no HSM is configured"))
		}, 1, []string{"not configured", "vault write mpc/config/hsm"}, []string{"not ready"}},
		{"one node left", func(s *server) {
			s.on("GET mpc/nodes/local-2", data(`{"state":"ready","hsm":"the token refused the PIN"}`))
		},
			1, []string{"node local-2 cannot use the HSM: the token refused the PIN", "1 of 3 nodes work"}, []string{"not ready"}},
		{"nodes denied", func(s *server) { s.on("LIST mpc/nodes", fails(403, "permission denied")) },
			1, []string{"softhsm"}, []string{`path "mpc/nodes" { capabilities = ["list"] }`}},
		{"nodes listed only", func(s *server) {
			s.on("LIST mpc/nodes", data(`{"keys":["a","b"],"key_info":{"a":{"state":"ready","hsm":"ok","aux_state":"ready"},"b":{"state":"ready","hsm":"ok","aux_state":"ready"}}}`))
			s.on("GET mpc/nodes/a", fails(403, "permission denied"))
			s.on("GET mpc/nodes/b", fails(404))
		}, 0, []string{"a     ready  ready"}, nil},
		{"nodes on other hosts", func(s *server) {
			s.on("LIST mpc/nodes", data(`{"keys":["eu-1","us-1"]}`))
			s.on("GET mpc/nodes/eu-1", data(`{"id":"eu-1","state":"ready","hsm":"ok","aux_state":"ready","remote":true,"region":"eu","domain":"eu-hsm"}`))
			s.on("GET mpc/nodes/us-1", data(`{"id":"us-1","state":"restarting","remote":true,"region":"us","domain":"us-hsm"}`))
		}, 1, []string{"REGION", "eu-1  ready       eu      eu-hsm  ready", "us-1  restarting  us      us-hsm", "node us-1 cannot be reached: on its host"}, []string{"not ready"}},
		{"people", func(s *server) {
			s.on("LIST mpc/identities", data(`{"keys":["acme","ben"]}`))
			s.on("LIST mpc/authenticators", data(`{"keys":["ada","ben","cid"]}`))
			s.on("LIST mpc/approvers", fails(404)) // Vault's answer for none
			s.on("LIST mpc/requests", data(`{"keys":["0f0f"]}`))
		}, 0, []string{"People\n  Identities      2\n  Authenticators  3\n  Requests        1 pending\n"}, nil},
		{"people, some hidden", func(s *server) {
			s.on("LIST mpc/identities", fails(403, "permission denied"))
			s.on("LIST mpc/authenticators", fails(500, "storage is away"))
			s.on("LIST mpc/approvers", data(`{"keys":["ada"]}`))
			s.on("LIST mpc/requests", data(`{"keys":[]}`))
		}, 0, []string{"People\n  Approvers  1\n"}, nil},
		{"hostile node name", func(s *server) { s.on("LIST mpc/nodes", data(`{"keys":["../../sys/seal"]}`)) },
			1, nil, []string{"not a node name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := engine(t)
			test.change(s)
			res := run(t, "status")
			res.want(t, test.code, test.stderr...)
			for _, part := range test.stdout {
				if !strings.Contains(res.stdout, part) {
					t.Errorf("stdout lacks %q:\n%s", part, res.stdout)
				}
			}
			var doc statusDoc
			res = run(t, "status", "-o", "json")
			if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil {
				t.Fatalf("status -o json: %v\n%s", err, res.stdout)
			}
			if doc.Ready != (test.code == 0) || res.code != test.code {
				t.Errorf("ready is %v with exit code %d", doc.Ready, res.code)
			}
		})
	}
}

// TestStatusPeople: what is not known is left out, and nobody is not talked about.
func TestStatusPeople(t *testing.T) {
	s := engine(t)
	for _, path := range []string{"identities", "authenticators", "approvers", "requests"} {
		s.on("LIST mpc/"+path, fails(403, "permission denied"))
	}
	for _, hidden := range []bool{true, false} {
		if !hidden {
			s.on("LIST mpc/approvers", fails(404))
		}
		res := run(t, "status")
		res.want(t, 0)
		if strings.Contains(res.stdout, "People") || strings.Contains(res.stdout+res.stderr, "denied") {
			t.Errorf("hidden %v:\n%s%s", hidden, res.stdout, res.stderr)
		}
		res = run(t, "status", "-o", "json")
		var doc map[string]any
		if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil {
			t.Fatal(err)
		}
		people, _ := doc["people"].(map[string]any)
		if hidden != (people == nil) || !hidden && (len(people) != 1 || people["approvers"] != 0.0) {
			t.Errorf("hidden %v: %v", hidden, doc["people"])
		}
	}
	if calls := s.called("LIST mpc/requests"); len(calls) == 0 || calls[0].query.Get("state") != "pending" {
		t.Errorf("%+v", calls)
	}
}
