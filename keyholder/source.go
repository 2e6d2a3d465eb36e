package keyholder

import (
	"context"
	"crypto/rand"
	"fmt"

	"golang.org/x/text/unicode/norm"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// informationSize is how many random bytes methods have that draw theirs.
const informationSize = 32

// Source is how one method gets its authentication information. A Source serves
// one registration or login at a time.
type Source interface {
	// Method says which method it is for.
	Method() identity.Method
	// New makes the information of a new authenticator and sets what is public
	// about it in n.Parameters. It is nil where the server's part is all there
	// is.
	New(ctx context.Context, n *Registering) (*secret.Bytes, error)
	// Get gets the information again for a login.
	Get(ctx context.Context, c *Challenge) (*Answer, error)
	// Ask asks the person for something else: personal information.
	Ask(ctx context.Context, q Question) (*secret.Bytes, error)
}

// Registering is an authenticator that is being made.
type Registering struct {
	Name       string
	ID         identity.ID
	PIN        bool // the information is a PIN
	Parameters identity.MethodParameters
	// Provider says what the server knows of the third party; only for OIDC.
	Provider *OIDCChallenge
	// RelyingParty is the site that the mount's passkeys belong to; only for
	// passkeys.
	RelyingParty string
}

// Challenge is what the server says before a login. For an authenticator that
// does not exist it says something of the same form.
type Challenge struct {
	Name                string                `json:"-"`
	Challenge           string                `json:"challenge"`
	LoginID             identity.ID           `json:"login_id"`
	KDF                 identity.KDF          `json:"kdf"`
	PersonalInformation string                `json:"personal_information"`
	PIN                 bool                  `json:"pin"`
	Certificate         *CertificateChallenge `json:"certificate"`
	OIDC                *OIDCChallenge        `json:"oidc"`
	Passkey             *PasskeyChallenge     `json:"passkey"`
	PhoneSent           bool                  `json:"phone_sent"`
}

// CertificateChallenge is what the certificate's key has to open.
type CertificateChallenge struct {
	Algorithm string `json:"algorithm"`
	Sealed    []byte `json:"sealed"`
}

// OIDCChallenge says where to get an ID token.
type OIDCChallenge struct {
	Provider string `json:"provider"`
	Issuer   string `json:"issuer"`
	ClientID string `json:"client_id"`
	// ClientSecret is empty for most. It is none: every client has it, and the
	// code is protected by PKCE.
	ClientSecret string   `json:"client_secret"`
	Scopes       []string `json:"scopes"`
	Nonce        string   `json:"nonce"`
}

// Answer is what a Source got. Its owner wipes Information.
type Answer struct {
	Information *secret.Bytes // nil where the server's part is all there is
	// IDToken and Code are what the server releases its part for.
	IDToken, Code string
}

// asker is the part of sources that asks people.
type asker struct{ p Prompter }

func (a asker) Ask(ctx context.Context, q Question) (*secret.Bytes, error) {
	s, err := a.p.AskSecret(ctx, q)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	// What people type has one form whatever the keyboard (Unicode NFC), in bytes
	// of its own: Bytes would return its argument where that has the form.
	out := secret.New(norm.NFC.Append(make([]byte, 0, 2*s.Len()), s.Expose()...))
	if out.Len() == 0 {
		return nil, fmt.Errorf("the %s is empty: nothing was sent", q.Topic)
	}
	return out, nil
}

func random(n int) *secret.Bytes {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return secret.New(b)
}

// Bounds on what people choose, in bytes. Argon2id and the lock after wrong tries
// slow guessing down; a thief of the server's whole state guesses as fast as his
// machines go.
const (
	minPassword = 10
	minPIN      = 4
	maxTyped    = 1024
)

type passwordSource struct{ asker }

// Password asks for a password of 10 to 1024 bytes.
func Password(p Prompter) Source { return passwordSource{asker{p}} }

func (passwordSource) Method() identity.Method { return identity.Password }

func (s passwordSource) New(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	return s.fresh(ctx, Question{Topic: TopicPassword, Text: "New password of " + n.Name, Fresh: true}, minPassword)
}

func (s passwordSource) Get(ctx context.Context, c *Challenge) (*Answer, error) {
	info, err := s.Ask(ctx, Question{Topic: TopicPassword, Text: "Password of " + c.Name})
	return &Answer{Information: info}, err
}

// fresh asks for something new of a least length.
func (a asker) fresh(ctx context.Context, q Question, least int) (*secret.Bytes, error) {
	info, err := a.Ask(ctx, q)
	if err != nil {
		return nil, err
	}
	if n := info.Len(); n < least || n > maxTyped {
		info.Wipe()
		return nil, fmt.Errorf("the %s has %d bytes; take %d to %d. Nothing was made", q.Topic, n, least, maxTyped)
	}
	return info, nil
}
