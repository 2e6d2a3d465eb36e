package approver

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/secret"
)

// CertificateKey is the key of a certificate that signs: ECDSA on P-256 or P-384
// (signatures in DER) or RSA (PKCS#1 v1.5), with SHA-256.
type CertificateKey interface {
	// Public is an *ecdsa.PublicKey or an *rsa.PublicKey.
	Public() any
	SignSHA256(ctx context.Context, message []byte) ([]byte, error)
}

// Invitation is what an enrolment's link says.
type Invitation struct {
	Enrolment approval.ID
	secret    string // base64url
}

// String and GoString keep the secret out of every formatted output.
func (i Invitation) String() string   { return "invitation " + i.Enrolment.String() }
func (i Invitation) GoString() string { return i.String() }

// ParseInvitation reads a link "…#e=<enrolment>&s=<secret>", whatever its page is.
func ParseInvitation(link string) (Invitation, error) {
	bad := errors.New("not a link of an enrolment: it ends with #e=…&s=…")
	_, behind, ok := strings.Cut(link, "#")
	if !ok || len(link) > 2048 {
		return Invitation{}, bad
	}
	v, err := url.ParseQuery(behind)
	if err != nil {
		return Invitation{}, bad
	}
	id, err := approval.ParseID(v.Get("e"))
	if err != nil || v.Get("s") == "" {
		return Invitation{}, bad
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(v.Get("s")); err != nil {
		return Invitation{}, bad
	}
	return Invitation{id, v.Get("s")}, nil
}

// Enrolment is what Enrol needs.
type Enrolment struct {
	Invitation Invitation
	// Name is what the device is called; the key is kept under it.
	Name string
	// Certificate, where it is not nil, is enrolled as a second factor under
	// CertificateName.
	Certificate     CertificateKey
	CertificateName string
	FileKeyring     bool
}

// Enrol makes a key in the keyring, sends its public half, and returns the device with
// the code to compare. Nothing of it counts before the enrolment is confirmed. After
// an error the keyring has no key.
func Enrol(ctx context.Context, s Server, ring Keyring, e Enrolment, now time.Time) (*Device, error) {
	if old, err := ring.Get(e.Name); err == nil {
		old.Wipe()
		return nil, fmt.Errorf("there is a key of a device %q already: nothing was made; take another name", e.Name)
	}
	link := map[string]any{"enrolment": e.Invitation.Enrolment.String(), "secret": e.Invitation.secret}
	var begun struct {
		Approver   string `json:"approver"`
		ApproverID string `json:"approver_id"`
		MountID    string `json:"mount_id"`
	}
	if err := s.Post(ctx, "approve/enrol", link, &begun); err != nil {
		return nil, err
	}
	d := &Device{Version: deviceVersion, Name: e.Name, Mount: begun.MountID, Approver: begun.ApproverID, ApproverName: begun.Approver,
		Enrolment: e.Invitation.Enrolment.String(), FileKeyring: e.FileKeyring, Created: now.UTC().Truncate(time.Second)}
	p, err := d.pinned()
	if err != nil {
		return nil, fmt.Errorf("the server's answer to the enrolment: %w", err)
	}
	private, public, err := newKey()
	if err != nil {
		return nil, err
	}
	defer private.Wipe()
	keys := []approval.Key{{Kind: approval.Device, Name: e.Name, Public: public}}
	if e.Certificate != nil {
		der, err := x509.MarshalPKIXPublicKey(e.Certificate.Public())
		if err != nil {
			return nil, fmt.Errorf("the certificate's key cannot be enrolled: %w", err)
		}
		keys = append(keys, approval.Key{Kind: approval.Certificate, Name: e.CertificateName, Public: der})
	}
	for i := range keys {
		id := keys[i].ID()
		d.Keys = append(d.Keys, KeyRecord{Kind: keys[i].Kind, Name: keys[i].Name, ID: id.String(), Public: keys[i].Public})
	}
	message := approval.EnrolMessage(p.mount, e.Invitation.Enrolment, p.approver, keys)
	d.Code = approval.EnrolCode(p.mount, e.Invitation.Enrolment, p.approver, keys)
	offer := map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]}
	if e.Certificate != nil {
		signature, err := e.Certificate.SignSHA256(ctx, message)
		if err != nil {
			return nil, fmt.Errorf("the certificate's key does not sign, so nothing was made: %w", err)
		}
		offer["certificate"] = map[string]any{"name": e.CertificateName, "public": b64(keys[1].Public), "signature": b64(signature)}
	}
	return d, d.offer(ctx, s, ring, private, message, offer)
}

// offer keeps the key and sends the public halves. The key is kept first: an enrolled
// key that nobody has would be of no use.
func (d *Device) offer(ctx context.Context, s Server, ring Keyring, private *secret.Bytes, message []byte, offer map[string]any) error {
	if err := ring.Set(d.Name, private); err != nil {
		return fmt.Errorf("the device's key could not be kept, so nothing was made: %w", err)
	}
	signature, err := d.sign(ring, message)
	if err == nil {
		offer["device"] = map[string]any{"name": d.Name, "public": b64(d.Keys[0].Public), "signature": b64(signature)}
		var answer struct{} // its code is not believed
		err = s.Post(ctx, "approve/enrol/finish", offer, &answer)
	}
	if err != nil {
		return errors.Join(err, ring.Delete(d.Name))
	}
	return nil
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
