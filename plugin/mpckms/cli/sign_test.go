package cli

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const pendingMessage = "auxiliary keys are still being made (local-2 40 %)"

func TestSignInputs(t *testing.T) {
	s := engine(t)
	file := filepath.Join(t.TempDir(), "message")
	binary := "\x00\xffraw\n"
	if err := os.WriteFile(file, []byte(binary), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	for _, test := range []struct {
		args        []string
		input, kind string
		hash        any
	}{
		{[]string{"--input", "hello", "--hash", "sha2-512"}, "hello", "raw", "sha2-512"},
		{[]string{"--input", "hello", "--message-type", "eip191"}, "hello", "eip191", nil},
		{[]string{"--input-file", file, "--message-type", "eip712"}, binary, "eip712", nil},
		{[]string{"--input-file", file, "--message-type", "digest"}, binary, "digest", nil},
		{[]string{"--digest", digest, "--message-type", "digest"}, strings.Repeat("\xab", 32), "digest", nil},
		{[]string{"--digest", digest + digest[:32], "--hash", "sha2-384"}, strings.Repeat("\xab", 48), "digest", "sha2-384"},
		{[]string{"--digest", digest + digest, "--hash", "sha2-512"}, strings.Repeat("\xab", 64), "digest", "sha2-512"},
		{[]string{"--input", "hello"}, "hello", "raw", nil},
		{[]string{"--input", "hello", "--hash-algorithm", "keccak-256"}, "hello", "raw", "keccak-256"},
		{[]string{"--input-file", file}, binary, "raw", nil},
		{[]string{"--input-file", "-"}, "from stdin", "raw", nil},
		{[]string{"--digest", digest}, strings.Repeat("\xab", 32), "digest", nil},
		{[]string{"--digest", "0x" + digest}, strings.Repeat("\xab", 32), "digest", nil},
	} {
		s.forget()
		runConfig(t, Config{
			Args:  append([]string{"account", "sign", "treasury"}, test.args...),
			Stdin: strings.NewReader("from stdin"),
		}).want(t, 0)
		calls := s.called("PUT mpc/sign/treasury")
		if len(calls) != 1 {
			t.Fatalf("%v: %d requests", test.args, len(calls))
		}
		body := calls[0].body
		if body["input"] != base64.StdEncoding.EncodeToString([]byte(test.input)) ||
			body["message_type"] != test.kind || body["hash_algorithm"] != test.hash {
			t.Errorf("%v sent %v", test.args, body)
		}
	}
}

func TestSignAsksForFormatAndID(t *testing.T) {
	s := engine(t)
	run(t, "account", "sign", "treasury", "--input", "x", "--format", "jws", "--request-id", "order-7").want(t, 0)
	run(t, "account", "verify", "treasury", "--input", "x", "--format", "jws", "--signature", "-_A").want(t, 0)
	run(t, "account", "sign", "treasury", "--input", "x").want(t, 0)
	calls := append(s.called("PUT mpc/sign/treasury"), s.called("PUT mpc/verify/treasury")...)
	if len(calls) != 3 || calls[0].body["signature_format"] != "jws" || calls[0].body["request_id"] != "order-7" ||
		calls[2].body["signature_format"] != "jws" || calls[2].body["signature"] != "-_A" {
		t.Errorf("sent %v", calls)
	}
	for _, field := range []string{"signature_format", "request_id", "hash_algorithm"} {
		if _, there := calls[1].body[field]; there {
			t.Errorf("%s was sent without a flag", field)
		}
	}
	s.forget()
	for args, says := range map[string]string{
		"verify treasury --input x --signature -_A":                    "base64url with --format jws",
		"verify treasury --input x --signature AA== --format jws":      "base64url with --format jws",
		"sign treasury --input x --message-type digest":                "--digest HEX",
		"sign treasury --digest 00 --message-type raw":                 "not of --message-type raw",
		"sign treasury --digest 00 --hash keccak-256":                  "signed as it is",
		"sign treasury --digest 00 --hash sha2-512":                    "128 hex digits (64 bytes)",
		"sign treasury --input x --digest " + strings.Repeat("ab", 32): "exactly one of",
	} {
		run(t, append([]string{"account"}, strings.Fields(args)...)...).want(t, 2, says)
	}
	if len(s.calls) != 0 {
		t.Errorf("sent %v", s.calls)
	}
}

func TestSignWithoutRecoveryID(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/sign/treasury", data(`{"signature":"AA==","v":null,"signers":null}`))
	res := run(t, "account", "sign", "treasury", "--input", "x", "-o", "json")
	res.want(t, 0)
	if !strings.Contains(res.stdout, `"v": null`) || !strings.Contains(res.stdout, `"signers": []`) {
		t.Errorf("unstable document:\n%s", res.stdout)
	}
}

// Pending twice, then a signature: progress on stderr, the answer on stdout.
func TestSignWaitsForAuxiliaryKeys(t *testing.T) {
	s := engine(t)
	var tries atomic.Int32
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) <= 2 {
			// Long enough for the CLI to look at the nodes meanwhile.
			for range 500 {
				if len(s.called("GET mpc/nodes/local-3")) > 0 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond)
			fails(409, pendingMessage)(w, r)
			return
		}
		data(signData)(w, r)
	})
	res := runWatching(t, "account", "sign", "treasury", "--input", "x", "-o", "json")
	res.want(t, 0, "Auxiliary keys: local-1 ready, local-2 40 %, local-3 0 %")
	if !strings.Contains(res.stdout, `"signature": "MEQ="`) || strings.Contains(res.stdout, "Auxiliary") {
		t.Errorf("stdout:\n%s", res.stdout)
	}
	if n := strings.Count(res.stderr, "Auxiliary keys:"); n != 1 {
		t.Errorf("unchanged progress was shown %d times:\n%s", n, res.stderr)
	}
	if tries.Load() != 3 {
		t.Errorf("%d requests, want 3", tries.Load())
	}
}

// A token that may only sign still waits, with the progress of the 409.
func TestSignWaitsWithoutNodesPermission(t *testing.T) {
	s := engine(t)
	s.on("LIST mpc/nodes", fails(403, "permission denied"))
	var tries atomic.Int32
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			fails(409, pendingMessage)(w, r)
			return
		}
		data(signData)(w, r)
	})
	runWatching(t, "account", "sign", "treasury", "--input", "x").want(t, 0, "Waiting up to 2m0s: "+pendingMessage)
}

func TestSignGivesUp(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/sign/treasury", fails(409, pendingMessage))
	res := run(t, "account", "sign", "treasury", "--input", "x", "--timeout", "500ms")
	res.want(t, 1, "no signature within 500ms", pendingMessage, "--timeout 10m", "are safe")
	if n := len(s.called("PUT mpc/sign/treasury")); n < 2 {
		t.Errorf("%d requests, want several", n)
	}
	if res.stdout != "" {
		t.Errorf("stdout: %q", res.stdout)
	}

	// The deadline strikes while a request is under way. A server of its own:
	// the last request of the wait above may still be on its way.
	s = engine(t)
	var tries atomic.Int32
	release := make(chan struct{})
	defer close(release)
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			fails(409, pendingMessage)(w, r)
			return
		}
		<-release
	})
	run(t, "account", "sign", "treasury", "--input", "x", "--timeout", "1s").want(t, 1, "no signature within 1s", pendingMessage)

	// The server never answers; the nodes say why, or nothing does.
	s.on("PUT mpc/sign/treasury", func(http.ResponseWriter, *http.Request) { <-release })
	runWatching(t, "account", "sign", "treasury", "--input", "x", "--timeout", "1s").
		want(t, 1, "no signature within 1s: auxiliary keys are still being made (local-1 ready, local-2 40 %")
	s.on("LIST mpc/nodes", fails(403, "permission denied"))
	runWatching(t, "account", "sign", "treasury", "--input", "x", "--timeout", "1s").
		want(t, 1, "no signature within 1s: no answer in time", "doing it again does no harm")
}

// A slow signature of a scheme without auxiliary keys says nothing of them.
func TestSignSlowWithoutAuxiliaryKeys(t *testing.T) {
	s := engine(t)
	s.on("GET mpc/accounts/treasury", data(strings.Replace(accountData, "ecdsa-secp256k1", "bip340-secp256k1", 1)))
	s.on("PUT mpc/sign/treasury", func(w http.ResponseWriter, r *http.Request) {
		for range 500 {
			if len(s.called("GET mpc/accounts/treasury")) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		data(signData)(w, r)
	})
	runWatching(t, "account", "sign", "treasury", "--input", "x").want(t, 0)
	if n := len(s.called("GET mpc/accounts/treasury")); n != 1 {
		t.Errorf("the account was read %d times, want 1", n)
	}
	if n := len(s.called("LIST mpc/nodes")); n != 0 {
		t.Errorf("the nodes were listed %d times", n)
	}
}

func TestSignNoWait(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/sign/treasury", fails(409, pendingMessage))
	runWatching(t, "account", "sign", "treasury", "--input", "x", "--no-wait").want(t, 1, pendingMessage, "mpckms status")
	if n := len(s.called("PUT mpc/sign/treasury")); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	if n := len(s.called("LIST mpc/nodes")); n != 0 {
		t.Errorf("--no-wait looked at the nodes %d times", n)
	}
}

func TestSignOtherConflict(t *testing.T) {
	s := engine(t)
	s.on("PUT mpc/sign/treasury", fails(409, "the account is frozen"))
	run(t, "account", "sign", "treasury", "--input", "x").want(t, 1, "the account is frozen (status 409)")
	if n := len(s.called("PUT mpc/sign/treasury")); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// Whoever freezes an account writes the reason.
	s.forget()
	s.on("PUT mpc/sign/treasury", fails(409, `account "treasury" is frozen (auxiliary keys are still being made) and signs nothing`))
	run(t, "account", "sign", "treasury", "--input", "x", "--timeout", "3s").want(t, 1, "is frozen")
	if n := len(s.called("PUT mpc/sign/treasury")); n != 1 {
		t.Errorf("%d requests to an account that is frozen, want 1", n)
	}
}

// A variable that is not set must not turn a safe request into an unsafe one.
func TestSignEmptyRequestID(t *testing.T) {
	s := engine(t)
	run(t, "account", "sign", "treasury", "--input", "x", "--request-id", "").want(t, 0)
	if calls := s.called("PUT mpc/sign/treasury"); len(calls) != 1 || calls[0].body["request_id"] != "" {
		t.Errorf("sent %v: the engine cannot refuse it", calls)
	}
}

// runWatching is run with progress looked at all the time.
func runWatching(t *testing.T, args ...string) result {
	t.Helper()
	return runConfig(t, Config{Args: args, progressPause: time.Millisecond})
}
