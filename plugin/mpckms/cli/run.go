package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hashicorp/vault/api/cliconfig"

	"vault-plugin-secrets-mpc/keyholder"
)

// Exit codes, documented in the package comment and in `mpckms --help`.
const (
	exitOK      = 0
	exitRefused = 1
	exitUsage   = 2
)

// Config is what one run of mpckms needs. Vault's own settings (VAULT_ADDR,
// VAULT_TOKEN, VAULT_NAMESPACE, VAULT_CACERT, …) come from the environment, as
// they do for the vault CLI.
type Config struct {
	// Args are the arguments without the program name.
	Args []string
	// Version is printed by `mpckms version`; "dev" when empty.
	Version string
	// Stdin feeds --input-file -, answers questions and, where it is a
	// terminal, is asked for passphrases. Nil means empty.
	Stdin io.Reader
	// Stdout and Stderr must not be nil.
	Stdout, Stderr io.Writer
	// StoredToken returns the token to use without VAULT_TOKEN, or "". Nil
	// means what the vault CLI does: the configured token helper, else
	// ~/.vault-token.
	StoredToken func() (string, error)
	// OpenToken opens a private key in a PKCS#11 token. Nil: this program
	// cannot, and says so when it is asked to.
	OpenToken func(context.Context, TokenKey) (keyholder.CertificateKey, error)

	// Pauses of `account sign` while it waits; tests shorten them. Zero
	// means the defaults.
	retryPause, progressPause time.Duration
	// batchPace is how long a request of a batch should take; see nextSize.
	batchPace time.Duration
	// scryptWork is log₂ of the work that guessing a key file's passphrase
	// takes; tests lower it. Zero means age's default, about a second.
	scryptWork int
}

// Run executes one command and returns its exit code.
func Run(ctx context.Context, cfg Config) int {
	a := newApp(cfg)
	root := a.rootCommand()
	root.SetArgs(cfg.Args)
	err := root.ExecuteContext(ctx)
	a.bar.clear()
	if err == nil {
		return exitOK
	}
	a.printError(err)
	var r *refusal
	if errors.As(err, &r) {
		return exitRefused
	}
	return exitUsage
}

// app is the state of one run. It is used by one goroutine, except where
// waitForKeys says otherwise.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	version        string
	storedToken    func() (string, error)
	retryPause     time.Duration
	progressPause  time.Duration
	batchPace      time.Duration
	scryptWork     int

	mount  string
	output string

	// What holders of identities give; see holderFlags.
	homeDir       string
	authenticator string
	files         secretFiles
	openToken     func(context.Context, TokenKey) (keyholder.CertificateKey, error)

	// bar is the line of progress, where there is a terminal for it.
	bar *bar

	// What this run may take for new, though its home knows another: the nodes, and
	// which account a name stands for.
	acceptNodes, acceptAccount bool

	// token is kept only to strike it out of anything printed.
	token string
}

func newApp(cfg Config) *app {
	a := &app{
		stdin: cfg.Stdin, stdout: cfg.Stdout, stderr: cfg.Stderr,
		version: cfg.Version, storedToken: cfg.StoredToken, openToken: cfg.OpenToken,
		retryPause: cfg.retryPause, progressPause: cfg.progressPause, batchPace: cfg.batchPace, scryptWork: cfg.scryptWork,
	}
	a.bar = newBar(a.stderr)
	a.bar.clean = func(s string) string { return a.strike(clean(s)) }
	if a.stdin == nil {
		a.stdin = eof{}
	}
	if a.version == "" {
		a.version = "dev"
	}
	if a.storedToken == nil {
		a.storedToken = vaultCLIToken
	}
	if a.retryPause == 0 {
		a.retryPause = time.Second
	}
	if a.progressPause == 0 {
		a.progressPause = 2 * time.Second
	}
	if a.batchPace == 0 {
		a.batchPace = batchPace
	}
	return a
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// vaultCLIToken reads the token where `vault login` left it.
func vaultCLIToken() (string, error) {
	// The library's internal helper panics where no home directory can be
	// found; without one there is no ~/.vault-token either.
	if _, err := os.UserHomeDir(); err != nil {
		return "", nil
	}
	helper, err := cliconfig.DefaultTokenHelper()
	if err != nil {
		return "", err
	}
	return helper.Get()
}
