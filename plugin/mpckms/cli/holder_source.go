package cli

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

// TokenKey names a private key in a PKCS#11 token.
type TokenKey struct {
	Module modules.Module
	// TokenLabel and Serial select the token, Label and ID (CKA_LABEL and
	// CKA_ID) the key; what is empty is not compared.
	TokenLabel, Serial string
	Label              string
	ID                 []byte
	// PIN asks for the token's PIN; the caller wipes it.
	PIN func(context.Context) (*secret.Bytes, error)
}

// methodFlags say how to use an authenticator: what Known remembers.
type methodFlags struct {
	kind                                     string
	keyFile, certificate, key, token, module string
}

func (f *methodFlags) add(cmd *cobra.Command, kindUsage, keyFileUsage string) {
	cmd.Flags().StringVar(&f.kind, "kind", "", kindUsage+": password, key-file, certificate, device, oidc, phone or passkey")
	f.addPlaces(cmd, keyFileUsage)
	complete(cmd, "kind", "password", "key-file", "certificate", "device", "oidc", "phone", "passkey")
}

// addPlaces adds the flags that say where a secret is.
func (f *methodFlags) addPlaces(cmd *cobra.Command, keyFileUsage string) {
	flags := cmd.Flags()
	flags.StringVar(&f.keyFile, "key-file", "", "key file, for kind key-file"+keyFileUsage)
	flags.StringVar(&f.certificate, "certificate", "", "certificate in PEM form, for kind certificate")
	flags.StringVar(&f.key, "key", "", "private key of the certificate in PEM form")
	flags.StringVar(&f.token, "token", "", "key in a PKCS#11 token, for kind certificate: pkcs11:token=LABEL;object=LABEL (RFC 7512)")
	flags.StringVar(&f.module, "module", "", "name of the PKCS#11 module in "+modules.Variable)
}

func (f *methodFlags) given() bool {
	return f.kind+f.keyFile+f.certificate+f.key+f.token+f.module != ""
}

// known checks the flags and makes paths absolute, so that they mean the same
// wherever the next command is run.
func (f *methodFlags) known(cmd *cobra.Command, name string) (keyholder.Known, error) {
	k := keyholder.Known{Name: name, Method: identity.Method(f.kind)}
	if err := identity.CheckName("authenticator", name); err != nil {
		return k, usagef(cmd, "%v", err)
	}
	if f.kind != "" && !k.Method.Valid() {
		return k, usagef(cmd, "%q is no kind: --kind takes password, key-file, certificate, device, oidc, phone or passkey", f.kind)
	}
	if !k.Method.Valid() {
		return k, usagef(cmd, "give --kind: password, key-file, certificate, device, oidc, phone or passkey")
	}
	for _, rule := range []struct {
		flag, value string
		of          identity.Method
	}{
		{"--key-file", f.keyFile, identity.KeyFile}, {"--certificate", f.certificate, identity.Certificate},
		{"--key", f.key, identity.Certificate}, {"--token", f.token, identity.Certificate}, {"--module", f.module, identity.Certificate},
	} {
		if rule.value != "" && k.Method != rule.of {
			return k, usagef(cmd, "%s is for --kind %s", rule.flag, rule.of)
		}
	}
	inFile, inToken := f.certificate != "" || f.key != "", f.token != "" || f.module != ""
	switch {
	case k.Method == identity.KeyFile && f.keyFile == "":
		return k, usagef(cmd, "give --key-file, the file that the key is in, or is to be made in")
	case k.Method == identity.Certificate && (inFile == inToken || inFile && (f.certificate == "" || f.key == "") || inToken && (f.token == "" || f.module == "")):
		return k, usagef(cmd, "give --certificate and --key, or --token and --module")
	}
	k.TokenURI, k.Module = f.token, f.module
	for _, path := range []struct {
		from string
		to   *string
	}{{f.keyFile, &k.KeyFile}, {f.certificate, &k.Certificate}, {f.key, &k.Key}} {
		if path.from == "" {
			continue
		}
		abs, err := filepath.Abs(path.from)
		if err != nil {
			return k, err
		}
		*path.to = abs
	}
	return k, nil
}

// source returns what gets the information of a known authenticator.
func (a *app) source(home *keyholder.Home, k keyholder.Known) (keyholder.Source, error) {
	p := prompter{a}
	switch k.Method {
	case identity.Password:
		return keyholder.Password(p), nil
	case identity.KeyFile:
		if k.KeyFile == "" {
			return nil, fmt.Errorf("the key file of authenticator %s is not known here: log in once with 'mpckms login --authenticator %s --kind key-file --key-file FILE'", k.Name, k.Name)
		}
		return keyholder.KeyFile(p, k.KeyFile), nil
	case identity.Certificate:
		if k.TokenURI != "" {
			open, err := a.tokenOpener(k)
			return keyholder.Certificate(p, open), err
		}
		if k.Key == "" {
			return nil, fmt.Errorf("the certificate of authenticator %s is not known here: log in once with 'mpckms login --authenticator %s --kind certificate …'", k.Name, k.Name)
		}
		return keyholder.Certificate(p, keyholder.CertificateFile(k.Certificate, k.Key)), nil
	case identity.Device:
		return keyholder.Device(p, a.keyring(home, k.FileKeyring)), nil
	case identity.OIDC:
		client, err := webClient()
		return keyholder.OIDC(p, keyholder.OIDCConfig{Client: client}), err
	case identity.Phone:
		return keyholder.Phone(p), nil
	case identity.Passkey:
		return keyholder.Passkey(p, keyholder.PasskeyConfig{}), nil
	}
	return nil, fmt.Errorf("authenticators of kind %s are not used from the command line", k.Method)
}

// passkeySite adds what to do where the mount has no passkeys that work here.
func (a *app) passkeySite(what string, err error) error {
	if !errors.Is(err, keyholder.ErrPasskeySite) {
		return failedTo(what, err)
	}
	return &refusal{what: "cannot " + what, cause: err, advice: fmt.Sprintf("Nothing was made or changed. Whoever runs Vault says once for all: 'vault write %s/config/identities passkey_relying_party=localhost'.\n"+
		"Passkeys of another site are of no use afterwards.", a.mount)}
}

// keyring is the operating system's or this home's own. Secrets of two homes in
// one operating system's keyring do not meet.
func (a *app) keyring(home *keyholder.Home, inFile bool) keyholder.Keyring {
	if inFile {
		return keyholder.FileKeyring(home)
	}
	sum := sha256.Sum256([]byte(home.Dir()))
	return keyholder.SystemKeyring(hex.EncodeToString(sum[:8]))
}

// webClient trusts the authorities of the host and those of VAULT_CACERT, which
// is also the provider's where Vault itself is the third party.
func webClient() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	path := os.Getenv("VAULT_CACERT")
	if path == "" {
		return &http.Client{Transport: transport}, nil
	}
	pem, err := readFile(path, maxInputFile)
	if err != nil {
		return nil, fmt.Errorf("VAULT_CACERT cannot be read: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(pem) // of a folder or an empty file nothing: then it is not trusted
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport}, nil
}

// tokenOpener prepares to open a key in a token.
func (a *app) tokenOpener(k keyholder.Known) (func(context.Context) (keyholder.CertificateKey, error), error) {
	if a.openToken == nil {
		return nil, errors.New("this build of mpckms cannot load PKCS#11 modules: use one that was built with cgo")
	}
	key, err := parseTokenURI(k.TokenURI)
	if err != nil {
		return nil, err
	}
	list, err := modules.Parse(os.Getenv(modules.Variable))
	if err != nil {
		return nil, err
	}
	module, ok := list[k.Module]
	if !ok {
		return nil, fmt.Errorf("there is no module %q in %s, which has: %s. Set it to %s=/path/of/the/library.so", k.Module, modules.Variable, list.Names(), k.Module)
	}
	key.Module = module
	p := prompter{a}
	key.PIN = func(ctx context.Context) (*secret.Bytes, error) {
		if module.PINFile != "" && a.files.tokenPIN == "" {
			return module.ReadPIN()
		}
		return p.AskSecret(ctx, keyholder.Question{Topic: keyholder.TopicTokenPIN, Text: "PIN of the token of " + k.Name})
	}
	return func(ctx context.Context) (keyholder.CertificateKey, error) { return a.openToken(ctx, key) }, nil
}
