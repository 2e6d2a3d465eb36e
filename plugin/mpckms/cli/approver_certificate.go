package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// certificateFlags name a certificate's key that signs, in a file or a token.
type certificateFlags struct{ certificate, key, token, module string }

func (f *certificateFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.certificate, "certificate", "", "certificate in PEM form, as a further factor")
	flags.StringVar(&f.key, "key", "", "private key of the certificate in PEM form")
	flags.StringVar(&f.token, "token", "", "key in a PKCS#11 token instead: pkcs11:token=LABEL;object=LABEL (RFC 7512)")
	flags.StringVar(&f.module, "module", "", "name of the PKCS#11 module of the token")
}

func (f *certificateFlags) given() bool { return f.certificate+f.key+f.token+f.module != "" }

// signingCertificate is a certificate's key that is open.
type signingCertificate struct {
	keyholder.CertificateKey
	keyholder.SigningKey
}

var _ approver.CertificateKey = signingCertificate{}

// open opens the key, nil where none is named; the caller closes it.
func (f *certificateFlags) open(cmd *cobra.Command, a *app) (*signingCertificate, error) {
	if !f.given() {
		return nil, nil
	}
	method := methodFlags{kind: string(identity.Certificate), certificate: f.certificate, key: f.key, token: f.token, module: f.module}
	k, err := method.known(cmd, "certificate")
	if err != nil {
		return nil, err
	}
	open := keyholder.CertificateFile(k.Certificate, k.Key)
	if k.TokenURI != "" {
		if open, err = a.tokenOpener(k); err != nil {
			return nil, err
		}
	}
	key, err := open(cmd.Context())
	if err != nil {
		return nil, err
	}
	signs, ok := key.(keyholder.SigningKey)
	if !ok {
		return nil, errors.Join(errors.New("this program cannot sign with a key in a token: take the mpckms of the distribution"), key.Close())
	}
	return &signingCertificate{key, signs}, nil
}

// close may be called on nil.
func (c *signingCertificate) close() error {
	if c == nil {
		return nil
	}
	return c.Close()
}

// factor is c as an interface that is nil where c is.
func (c *signingCertificate) factor() approver.CertificateKey {
	if c == nil {
		return nil
	}
	return *c
}
