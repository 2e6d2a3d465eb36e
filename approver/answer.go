package approver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Factors are what a person gives beside the device key.
type Factors struct {
	// Certificate signs as well; nil for none. Its key must be in the policy.
	Certificate CertificateKey
	// TOTP is a one-time code, LoggedIn says that the approver has logged in for this
	// request through another connection. The coordinator checks both.
	TOTP     string
	LoggedIn bool
}

// Outcome is what the server says came of an answer.
type Outcome struct {
	State     string `json:"state"`
	Approvals int    `json:"approvals"`
	Quorum    int    `json:"quorum"`
}

// Kinds returns the kinds of factors that an approval with these would have.
func (f *Factors) Kinds() []approval.Kind {
	kinds := []approval.Kind{approval.Device}
	if f.Certificate != nil {
		kinds = append(kinds, approval.Certificate)
	}
	if f.TOTP != "" {
		kinds = append(kinds, approval.TOTP)
	}
	if f.LoggedIn {
		kinds = append(kinds, approval.Login)
	}
	return kinds
}

// Enough reports whether the kinds are as many as the policy asks this approver for.
// The error wraps ErrFactors and says what would do.
func (r *Request) Enough(kinds []approval.Kind) error {
	signature := 0
	for _, k := range kinds {
		if k.Signature() {
			signature++
		} else if !slices.Contains(r.Me.Checked, k) {
			return fmt.Errorf("%w: and %s is none that the policy takes of this approver", ErrFactors, k)
		}
	}
	if len(kinds) >= r.Policy.Factors && signature >= r.Policy.SignatureFactors {
		return nil
	}
	var more []string
	for _, k := range r.MyKinds() {
		if !slices.Contains(kinds, k) {
			more = append(more, string(k))
		}
	}
	return fmt.Errorf("%w: %d, of which nodes verify %d; used would be %d and %d; this approver has %s besides",
		ErrFactors, r.Policy.Factors, r.Policy.SignatureFactors, len(kinds), signature, orNone(more))
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// MyKinds are the kinds of factors that the policy takes of this approver.
func (r *Request) MyKinds() []approval.Kind {
	var kinds []approval.Kind
	for _, k := range r.Me.Keys {
		if !slices.Contains(kinds, k.Kind) {
			kinds = append(kinds, k.Kind)
		}
	}
	return append(kinds, r.Me.Checked...)
}

// statement is what is signed, for either decision.
func (r *Request) statement(d approval.Decision) *approval.Statement {
	return &approval.Statement{Subject: r.Subject, Decision: d, Approver: r.Me.ID}
}

// signature of one factor as it is sent; []byte is base64 in JSON.
type signature struct {
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
}

// Approve signs the statement and sends it. It asks nobody: the caller has shown the
// request and been told to.
func (r *Request) Approve(ctx context.Context, s Server, ring Keyring, f Factors, now time.Time) (*Outcome, error) {
	if err := r.Enough(f.Kinds()); err != nil {
		return nil, err
	}
	if err := r.checkTime(r.Subject.Expires, now); err != nil {
		return nil, err
	}
	st := r.statement(approval.Approve)
	signatures, err := r.byDevice(ring, st)
	if err != nil {
		return nil, err
	}
	if f.Certificate != nil {
		mine, err := r.byCertificate(ctx, f.Certificate, st)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, *mine)
	}
	return r.send(ctx, s, approval.Approve, signatures, f.TOTP)
}

// Refuse refuses the request; the device key alone does.
func (r *Request) Refuse(ctx context.Context, s Server, ring Keyring, now time.Time) (*Outcome, error) {
	if err := r.checkTime(r.Subject.Expires, now); err != nil {
		return nil, err
	}
	signatures, err := r.byDevice(ring, r.statement(approval.Refuse))
	if err != nil {
		return nil, err
	}
	return r.send(ctx, s, approval.Refuse, signatures, "")
}

func (r *Request) send(ctx context.Context, s Server, d approval.Decision, signatures []signature, totp string) (*Outcome, error) {
	body := map[string]any{"ticket": r.ticket, "decision": string(d), "signatures": signatures}
	if totp != "" {
		body["totp"] = totp
	}
	out := &Outcome{}
	if err := s.Post(ctx, "approve/answer", body, out); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *Request) byDevice(ring Keyring, st *approval.Statement) ([]signature, error) {
	raw, err := r.device.sign(ring, st.DeviceMessage())
	if err != nil {
		return nil, err
	}
	return []signature{{r.device.KeyID(), raw}}, nil
}

// byCertificate signs with the certificate's key, which the policy has to have for
// this approver.
func (r *Request) byCertificate(ctx context.Context, c CertificateKey, st *approval.Statement) (*signature, error) {
	der, err := x509.MarshalPKIXPublicKey(c.Public())
	if err != nil {
		return nil, err
	}
	mine := approval.Key{Kind: approval.Certificate, Public: der}
	k := r.Me.Key(mine.ID())
	if k == nil {
		return nil, errors.New("the policy does not have this certificate's key for this approver: nothing was signed")
	}
	raw, err := c.SignSHA256(ctx, st.CertificateMessage())
	if err != nil {
		return nil, fmt.Errorf("the certificate's key did not sign: %w", err)
	}
	if err := k.Verify(st, &approval.Signature{Key: k.ID(), Signature: raw}); err != nil {
		return nil, fmt.Errorf("what the certificate's key signed does not verify: %w", err)
	}
	return &signature{k.ID().String(), raw}, nil
}
