package backend

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// challengeTTL is how long a challenge may be answered.
const challengeTTL = 5 * time.Minute

// ticket is what the server has to know again about a challenge that it gave out.
// It travels in the challenge, encrypted, so that challenges cost no memory and
// nobody can push another's out of it. Nothing in it says whether the
// authenticator exists.
type ticket struct {
	Nonce    [16]byte        `json:"nonce"`
	Kind     identity.Method `json:"kind"`
	Name     string          `json:"name"`
	ID       identity.ID     `json:"id"`       // the login ID that was shown
	Provider string          `json:"provider"` // of kind oidc: the one that was shown
	Expires  time.Time       `json:"expires"`
}

// oidcNonce is what the provider has to put into its token: 32 hex digits.
func (t *ticket) oidcNonce() string { return fmt.Sprintf("%x", t.Nonce) }

// tickets seals and opens tickets with keys that live as long as this process, as
// sessions do. Safe for concurrent use.
type tickets struct {
	aead  cipher.AEAD // AES-256-GCM, random nonces
	codes [32]byte    // key of one-time codes
}

const ticketContext = "mpc login challenge v1"

func newTickets() (*tickets, error) {
	t := &tickets{}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: it ends the program instead
	_, _ = rand.Read(t.codes[:])
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	t.aead, err = cipher.NewGCM(block)
	return t, err
}

// seal returns the challenge: base64 of nonce (12 bytes) ‖ ciphertext and tag.
func (t *tickets) seal(k *ticket) (string, error) {
	plain, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	out := make([]byte, t.aead.NonceSize())
	_, _ = rand.Read(out)
	return base64.StdEncoding.EncodeToString(t.aead.Seal(out, out, plain, []byte(ticketContext))), nil
}

// errChallenge says the same of a challenge that is too old, was changed, or is of
// a server that is active no more. It depends on no name.
func errChallenge() error {
	return forbidden("the challenge is over, or not one of this server: begin again with login/challenge")
}

func (t *tickets) open(challenge string, now time.Time) (*ticket, error) {
	raw, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil || len(raw) < t.aead.NonceSize() || len(raw) > 2048 {
		return nil, errChallenge()
	}
	n := t.aead.NonceSize()
	plain, err := t.aead.Open(nil, raw[:n], raw[n:], []byte(ticketContext))
	if err != nil {
		return nil, errChallenge()
	}
	k := &ticket{}
	if err := json.Unmarshal(plain, k); err != nil {
		return nil, errChallenge()
	}
	if now.After(k.Expires) {
		return nil, errChallenge()
	}
	return k, nil
}

// code is the six digits that belong to a challenge: HMAC-SHA256 of its nonce and
// name, the first 8 bytes as a number, modulo a million (no digit is likelier than
// another by more than 2^-43).
func (t *tickets) code(k *ticket) string {
	mac := hmac.New(sha256.New, t.codes[:])
	mac.Write(k.Nonce[:])
	mac.Write([]byte(k.Name))
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(mac.Sum(nil))%1_000_000)
}

// forbidden is a 403: who asks has not shown that he may.
func forbidden(format string, args ...any) error {
	return &fault{status: http.StatusForbidden, msg: fmt.Sprintf(format, args...)}
}

// errLoginFailed has one text for all causes.
func errLoginFailed() error {
	return forbidden("login failed: the authenticator, its kind or what you authenticate with is not right. Nothing was changed; begin again with login/challenge")
}

// decode64 reads a field of bytes: standard base64 with padding.
func decode64(field, text string, least, most int) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != text {
		return nil, invalid("%s is not base64", field)
	}
	if len(raw) < least || len(raw) > most {
		return nil, invalid("%s has %d bytes in base64, and must have %d to %d", field, len(raw), least, most)
	}
	return raw, nil
}

func encode64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
