package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// errNotVault: whatever answered does not speak Vault's API.
var errNotVault = errors.New("the answer does not come from Vault's API")

// refusal is every failure that is not the caller's usage: the network, Vault,
// the engine, or an answer of "no". It exits with 1.
type refusal struct {
	what   string // a whole clause: "cannot list accounts"
	path   string // Vault path without /v1/, empty if no request was made
	req    request
	client *client // nil if no request was made

	status   int // HTTP status, 0 without an answer
	messages []string
	cause    error
	advice   string // overrides the advice derived from the rest
}

func (r *refusal) Unwrap() error { return r.cause }

func (r *refusal) Error() string {
	s := r.what
	if reason := r.reason(); reason != "" {
		s += ": " + reason
	}
	advice := r.advice
	if advice == "" && r.client != nil {
		advice = r.nextStep()
	}
	if advice != "" {
		s += "\n\n" + advice
	}
	return s
}

// reason says what happened in one line or what the server said.
func (r *refusal) reason() string {
	switch {
	case errors.Is(r.cause, errNotVault) && r.status != 0:
		return fmt.Sprintf("%v (HTTP status %d)", r.cause, r.status)
	case errors.Is(r.cause, context.Canceled):
		return "interrupted"
	case r.timedOut():
		return "no answer in time"
	case errors.Is(r.cause, syscall.ECONNREFUSED):
		return "connection refused by " + r.address()
	case r.cause != nil:
		return inWords(r.cause)
	case r.isSealed():
		return "Vault is sealed"
	case r.noRoute():
		return fmt.Sprintf("nothing is mounted at %q", r.client.mount+"/")
	case r.status == http.StatusForbidden && r.denied():
		return "permission denied"
	case len(r.messages) > 0:
		return fmt.Sprintf("%s (status %d)", strings.Join(r.messages, "; "), r.status)
	case r.status == http.StatusNotFound:
		return "not found"
	case r.status != 0:
		return fmt.Sprintf("Vault answered with status %d and no message", r.status)
	}
	return ""
}

// inWords is an error without the names of packages, which say nothing to people.
func inWords(err error) string {
	s := ": " + err.Error()
	for _, of := range []string{"identity", "keyholder"} {
		s = strings.ReplaceAll(s, ": "+of+": ", ": ")
	}
	return s[2:]
}

// nextStep says what the caller can do about it.
func (r *refusal) nextStep() string {
	var dnsErr *net.DNSError
	var certErr *tls.CertificateVerificationError
	var recordErr tls.RecordHeaderError
	switch {
	case errors.Is(r.cause, context.Canceled):
		return r.unknownOutcome()
	case errors.Is(r.cause, syscall.ECONNREFUSED):
		return "Is Vault running, and is VAULT_ADDR (now " + r.address() + ") where it listens?"
	case errors.As(r.cause, &dnsErr):
		return "Check the host name in VAULT_ADDR (now " + r.address() + ")."
	case errors.As(r.cause, &certErr):
		return "Set VAULT_CACERT to the file of the authority that signed the server's certificate,\nand VAULT_TLS_SERVER_NAME if the certificate carries another host name."
	case errors.As(r.cause, &recordErr), r.cause != nil && strings.Contains(r.cause.Error(), "HTTP response to HTTPS client"):
		return "The server does not speak TLS there: VAULT_ADDR (now " + r.address() + ") may need http:// instead of https://."
	case errors.Is(r.cause, errNotVault):
		return "Check that VAULT_ADDR (now " + r.address() + ") is a Vault server and not a proxy's page."
	case r.cause != nil:
		return r.unknownOutcome()
	case r.isSealed():
		return "Unseal it with 'vault operator unseal' and try again. Keys and shares are safe while it is sealed."
	case r.noRoute():
		return r.mountAdvice()
	case r.status == http.StatusForbidden && r.denied():
		return r.permissionAdvice()
	case r.status == http.StatusNotFound && r.unsupportedPath():
		return "The engine at " + r.client.mount + "/ does not know " + r.path + ". Is another engine mounted there,\nor an older version of the plugin? 'mpckms status' shows which. Choose a mount with --mount."
	case r.status == http.StatusNotFound && r.req.account != "":
		return "List the accounts of this mount with 'mpckms account list'; another mount is chosen with --mount."
	case r.status == http.StatusTooManyRequests:
		return "A rate limit of Vault was reached. Wait a little and try again."
	case r.status >= 500:
		return strings.TrimSpace("Try again; if it persists, see 'mpckms status' and Vault's log.\n" + r.unknownOutcome())
	}
	return "" // the engine's own 4xx messages say what to do
}

// unknownOutcome is said where a write may or may not have been carried out, and
// the engine does not say itself that it was not.
func (r *refusal) unknownOutcome() string {
	if r.req.body == nil && r.req.capability != capDelete || r.said("nothing was ") {
		return ""
	}
	if r.req.capability == capCreate {
		return "The account may have been created all the same: look with 'mpckms account show " + r.req.account + "' before trying again."
	}
	return "The server may have carried it out all the same; doing it again does no harm."
}

func (r *refusal) mountAdvice() string {
	return "Enable the engine with 'vault secrets enable -path=" + r.client.mount + " mpc', after the plugin was registered\n" +
		"('vault plugin register … secret mpc'); or choose another mount with --mount or " + envMount +
		", or another\nnamespace with VAULT_NAMESPACE."
}

func (r *refusal) permissionAdvice() string {
	if !r.client.hasToken {
		return "No token was sent: run 'vault login', or set VAULT_TOKEN."
	}
	s := "The token is expired or revoked, or its policies lack this:\n\n" +
		"    path \"" + r.path + "\" { capabilities = [\"" + strings.Join(r.req.needs(), "\", \"") + "\"] }\n\n" +
		"'vault token lookup' tells whether the token is alive."
	if !r.req.sys {
		s += " Vault answers the same where nothing is\nmounted at " + r.client.mount + "/: check with 'mpckms status'."
	}
	return s
}

// needs lists the capabilities that a policy must grant for r. Paths that the
// engine keeps to operators need sudo as well, and entries of config/ may have to
// be created.
func (r request) needs() []string {
	config := strings.HasPrefix(r.path, "config/")
	switch {
	case r.sys || !config && !strings.HasPrefix(r.path, "recovery/") && !strings.HasPrefix(r.path, "destroy/"):
		return []string{r.capability}
	case config && r.capability == capUpdate:
		return []string{capCreate, capUpdate, "sudo"}
	}
	return []string{r.capability, "sudo"}
}

func (r *refusal) address() string {
	if r.client == nil {
		return ""
	}
	return r.client.address
}

// said reports whether a message of the server contains part.
func (r *refusal) said(part string) bool {
	for _, m := range r.messages {
		if strings.Contains(strings.ToLower(m), part) {
			return true
		}
	}
	return false
}

func (r *refusal) timedOut() bool {
	var netErr net.Error
	return errors.Is(r.cause, context.DeadlineExceeded) || errors.As(r.cause, &netErr) && netErr.Timeout()
}

func (r *refusal) isSealed() bool {
	return r.status == http.StatusServiceUnavailable && r.said("sealed")
}

func (r *refusal) noRoute() bool {
	return r.status == http.StatusNotFound && r.said("no handler for route")
}

// unsupportedPath recognizes Vault's words and those of the engine itself, which
// an older version uses for what it does not have yet.
func (r *refusal) unsupportedPath() bool {
	return r.said("unsupported path") || r.status == http.StatusNotFound && r.said("there is no path")
}

// denied tells Vault's own refusal from an engine's 403 with a reason.
func (r *refusal) denied() bool {
	return len(r.messages) == 0 || r.said("permission denied") || r.said("missing client token") || r.said("preflight capability check")
}
