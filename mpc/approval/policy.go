package approval

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds. A policy travels with every signing request, and all of it is shown to
// people.
const (
	MaxApprovers = 16
	MaxKeys      = 8         // of one approver
	MaxPolicy    = 128 << 10 // bytes of a marshalled policy
	MaxName      = 128       // bytes of a name that is shown
	maxPublic    = 1024      // bytes of a SubjectPublicKeyInfo; RSA-4096 has 550
	maxText      = 512
	maxOrigins   = 8
	maxRequester = 16 // identifiers of one approver
	maxCred      = 1023
)

// Bounds of Policy.Expiry.
const (
	MinExpiry = time.Minute
	MaxExpiry = 7 * 24 * time.Hour
)

// Kind is a kind of factor.
type Kind string

// The kinds. Nodes verify the first three themselves (signature factors); the last
// two are checked by the coordinator, whose word the nodes would have to take, so they
// leave no trace in what nodes see.
const (
	// Device is a key that was made on the approver's device and never leaves it:
	// ECDSA on P-256.
	Device Kind = "device"
	// Passkey is a WebAuthn credential, used with user verification.
	Passkey Kind = "passkey"
	// Certificate is the key of a certificate, in a file or a smart card: ECDSA on
	// P-256 or P-384, or RSA of 2048 to 4096 bits.
	Certificate Kind = "certificate"
	// TOTP is a one-time code by RFC 6238.
	TOTP Kind = "totp"
	// Login is a login as the identity that the approver is tied to.
	Login Kind = "login"
)

// Signature reports whether nodes verify the factor.
func (k Kind) Signature() bool { return k == Device || k == Passkey || k == Certificate }

// Valid reports whether it is a kind.
func (k Kind) Valid() bool { return k.Signature() || k == TOTP || k == Login }

// Key is a signature factor as a policy pins it.
type Key struct {
	Kind Kind
	// Name is what its owner calls it, "phone" for example (CheckName).
	Name string
	// Public is the SubjectPublicKeyInfo (RFC 5280, section 4.1), DER as
	// x509.MarshalPKIXPublicKey writes it.
	Public []byte
	// Of a passkey: the relying party's ID, the origins that its page may have, and
	// the credential's ID.
	RPID       string
	Origins    []string
	Credential []byte
}

// ID names the key: the first 16 bytes of SHA-256 over label, kind, public key and,
// of a passkey, relying party and credential ID.
func (k *Key) ID() ID {
	var w writer
	w.text("vault-plugin-secrets-mpc approval key v1")
	w.text(string(k.Kind))
	w.bytes(k.Public)
	w.text(k.RPID)
	w.bytes(k.Credential)
	sum := sha256.Sum256(w)
	return ID(sum[:16])
}

// Approver is one person, or one machine, that may approve.
type Approver struct {
	ID   ID
	Name string
	// Requesters are the identifiers under which this approver may itself ask for
	// signatures ("entity:…", "identity:…", "token:…"), sorted, or "none" alone. A
	// request of one of them is never approved by this approver.
	Requesters []string
	Keys       []Key
	// Checked are the kinds that the coordinator may check for this approver: TOTP,
	// Login.
	Checked []Kind
}

// Key returns the key with the ID, or nil.
func (a *Approver) Key(id ID) *Key {
	for i := range a.Keys {
		if a.Keys[i].ID() == id {
			return &a.Keys[i]
		}
	}
	return nil
}

// Kinds returns how many kinds of factors the approver has, and how many of them
// nodes verify.
func (a *Approver) Kinds() (all, signature int) {
	kinds := map[Kind]bool{}
	for _, k := range a.Keys {
		if !kinds[k.Kind] {
			kinds[k.Kind] = true
			signature++
		}
	}
	for _, k := range a.Checked {
		kinds[k] = true
	}
	return len(kinds), signature
}

// Policy says who has to approve each signature of an account.
type Policy struct {
	// Quorum is how many approvers have to approve, 1 or more.
	Quorum int
	// Factors is how many different kinds of factors each of them uses, 2 or more;
	// SignatureFactors how many of those nodes verify, 1 or more.
	Factors, SignatureFactors int
	// Expiry is how long a request waits for approvals, and how long approvals
	// count, in whole seconds.
	Expiry time.Duration
	// Since is the share epoch that the account was in when this policy was asked
	// for; 0 for the policy that an account is made with. It rises from each policy
	// of an account to the next, so that no two of them are alike, even where one
	// goes back to what another said: approvals of a change can never be used again
	// after a later one. See Follows.
	Since     uint64
	Approvers []Approver
}

// Approver returns the approver with the ID, or nil.
func (p *Policy) Approver(id ID) *Approver {
	for i := range p.Approvers {
		if p.Approvers[i].ID == id {
			return &p.Approvers[i]
		}
	}
	return nil
}

// ByKey returns the approver who has a key, and the key; nil where nobody does.
func (p *Policy) ByKey(id ID) (*Approver, *Key) {
	for i := range p.Approvers {
		if k := p.Approvers[i].Key(id); k != nil {
			return &p.Approvers[i], k
		}
	}
	return nil, nil
}

// Check verifies bounds, and that the policy can be fulfilled and demands something:
// a policy that asks for nothing is an error, never a policy that allows everything.
// That public keys are keys is checked as well.
func (p *Policy) Check() error {
	switch {
	case len(p.Approvers) == 0:
		return errors.New("a policy needs approvers")
	case len(p.Approvers) > MaxApprovers:
		return fmt.Errorf("%d approvers, more than %d", len(p.Approvers), MaxApprovers)
	case p.Quorum < 1 || p.Quorum > len(p.Approvers):
		return fmt.Errorf("the quorum must be 1 to %d, the number of approvers, not %d", len(p.Approvers), p.Quorum)
	case p.Factors < 2 || p.Factors > 5:
		return fmt.Errorf("each approver must use at least two different kinds of factors, not %d", p.Factors)
	case p.SignatureFactors < 1 || p.SignatureFactors > p.Factors || p.SignatureFactors > 3:
		return fmt.Errorf("the factors that nodes verify must be 1 to %d, not %d", min(p.Factors, 3), p.SignatureFactors)
	case p.Expiry < MinExpiry || p.Expiry > MaxExpiry || p.Expiry%time.Second != 0:
		return fmt.Errorf("the expiry must be %s to %s in whole seconds, not %s", MinExpiry, MaxExpiry, p.Expiry)
	}
	ids, names, keys := map[ID]bool{}, map[string]bool{}, map[string]bool{}
	for i := range p.Approvers {
		a := &p.Approvers[i]
		if err := a.check(); err != nil {
			return fmt.Errorf("approver %q: %w", a.Name, err)
		}
		if ids[a.ID] || names[a.Name] {
			return fmt.Errorf("approver %q is named twice", a.Name)
		}
		ids[a.ID], names[a.Name] = true, true
		for k := range a.Keys {
			// One key is one factor of one person, whatever kind it is said to be:
			// whoever has it could otherwise sign for two. Its encoding is the only
			// one it has (Key.parse).
			public := string(a.Keys[k].Public)
			if keys[public] {
				return fmt.Errorf("approver %q: the public key of %q is there twice: nobody counts for two, and no key for two factors", a.Name, a.Keys[k].Name)
			}
			keys[public] = true
		}
		if all, signature := a.Kinds(); all < p.Factors || signature < p.SignatureFactors {
			return fmt.Errorf("approver %q has %d kinds of factors, %d of which nodes verify; the policy asks for %d and %d", a.Name, all, signature, p.Factors, p.SignatureFactors)
		}
	}
	// Each part is within its bounds; an account whose policy can be written but not
	// read would sign no more.
	if n := len(p.Marshal()); n > MaxPolicy {
		return fmt.Errorf("the policy has %d bytes, more than %d: name fewer approvers, keys or origins", n, MaxPolicy)
	}
	return nil
}

func (a *Approver) check() error {
	switch {
	case a.ID == ID{}:
		return errors.New("has no ID")
	case len(a.Keys) == 0 || len(a.Keys) > MaxKeys:
		return fmt.Errorf("needs 1 to %d keys, has %d", MaxKeys, len(a.Keys))
	case len(a.Requesters) == 0:
		return errors.New("it is not said under which identifiers the approver may ask for signatures; \"none\" says that there are none")
	case len(a.Requesters) > maxRequester:
		return fmt.Errorf("has %d requester identifiers, more than %d", len(a.Requesters), maxRequester)
	case !slices.IsSorted(a.Requesters) || len(slices.Compact(slices.Clone(a.Requesters))) != len(a.Requesters):
		return errors.New("requester identifiers are not in order, or there twice")
	}
	if err := CheckName(a.Name); err != nil {
		return err
	}
	if !slices.Equal(a.Requesters, []string{noRequester}) {
		for _, s := range a.Requesters {
			if err := checkRequester(s); err != nil {
				return err
			}
		}
	}
	for i, k := range a.Checked {
		if k != TOTP && k != Login || slices.Contains(a.Checked[:i], k) {
			return fmt.Errorf("%q is not a kind that the coordinator checks, or is there twice", k)
		}
	}
	for i := range a.Keys {
		if err := a.Keys[i].check(); err != nil {
			return fmt.Errorf("key %q: %w", a.Keys[i].Name, err)
		}
	}
	return nil
}

func (k *Key) check() error {
	passkey := k.Kind == Passkey
	switch {
	case !k.Kind.Signature():
		return fmt.Errorf("%q is not a kind of key", k.Kind)
	case passkey != (k.RPID != "") || passkey != (len(k.Origins) > 0) || passkey != (len(k.Credential) > 0):
		return errors.New("relying party, origins and credential belong to a passkey, and to nothing else")
	case len(k.RPID) > maxText || len(k.Origins) > maxOrigins || len(k.Credential) > maxCred:
		return errors.New("relying party, origins or credential are too long")
	}
	if err := CheckName(k.Name); err != nil {
		return err
	}
	if !printableASCII(k.RPID) {
		return errors.New("the relying party's ID is not a host name in ASCII")
	}
	for _, o := range k.Origins {
		if err := checkOrigin(o); err != nil {
			return err
		}
	}
	_, err := k.parse()
	return err
}

const policyLabel = "vault-plugin-secrets-mpc approval policy v1"

// Marshal returns the canonical encoding.
func (p *Policy) Marshal() []byte {
	var w writer
	w.text(policyLabel)
	w.number(uint64(p.Quorum))
	w.number(uint64(p.Factors))
	w.number(uint64(p.SignatureFactors))
	w.number(uint64(p.Expiry / time.Second))
	w.number(p.Since)
	w.number(uint64(len(p.Approvers)))
	for _, a := range p.Approvers {
		w.bytes(a.ID[:])
		w.text(a.Name)
		w.number(uint64(len(a.Requesters)))
		for _, s := range a.Requesters {
			w.text(s)
		}
		w.number(uint64(len(a.Keys)))
		for _, k := range a.Keys {
			w.text(string(k.Kind))
			w.text(k.Name)
			w.bytes(k.Public)
			w.text(k.RPID)
			w.number(uint64(len(k.Origins)))
			for _, o := range k.Origins {
				w.text(o)
			}
			w.bytes(k.Credential)
		}
		w.number(uint64(len(a.Checked)))
		for _, k := range a.Checked {
			w.text(string(k))
		}
	}
	return w
}

// Follows checks that the policy may be the one after old, nil for none, of an account
// in a share epoch, 0 for an account that is being made: it was asked for since old
// was, and not later than now. A refresh between asking and now does no harm.
func (p *Policy) Follows(old *Policy, epoch uint64) error {
	switch {
	case p.Since > epoch:
		return fmt.Errorf("approval: the new policy was asked for in epoch %d, and the account is in epoch %d", p.Since, epoch)
	case old != nil && p.Since <= old.Since:
		return fmt.Errorf("approval: the new policy was asked for in epoch %d, and the present one in epoch %d: the account's policy has been changed since; ask for the change again", p.Since, old.Since)
	}
	return nil
}

// Hash is the SHA-256 of Marshal: what the account's public record names.
func (p *Policy) Hash() [32]byte { return sha256.Sum256(p.Marshal()) }

// ParsePolicy reads Marshal's encoding. What it returns passes Check.
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > MaxPolicy {
		return nil, fmt.Errorf("approval: a policy of %d bytes is too long", len(b))
	}
	r := &reader{in: b}
	if r.text(maxText) != policyLabel {
		return nil, errors.New("approval: not a policy that this program reads")
	}
	p := &Policy{Quorum: r.count(MaxApprovers), Factors: r.count(5), SignatureFactors: r.count(5)}
	p.Expiry = time.Duration(r.count(int(MaxExpiry/time.Second))) * time.Second
	p.Since = r.number()
	for range r.count(MaxApprovers) {
		a := Approver{}
		r.fixed(a.ID[:])
		a.Name = r.text(MaxName)
		for range r.count(maxRequester) {
			a.Requesters = append(a.Requesters, r.text(maxText))
		}
		for range r.count(MaxKeys) {
			k := Key{Kind: Kind(r.text(maxText)), Name: r.text(MaxName), Public: r.bytes(maxPublic), RPID: r.text(maxText)}
			for range r.count(maxOrigins) {
				k.Origins = append(k.Origins, r.text(maxText))
			}
			k.Credential = r.bytes(maxCred)
			a.Keys = append(a.Keys, k)
		}
		for range r.count(2) {
			a.Checked = append(a.Checked, Kind(r.text(maxText)))
		}
		p.Approvers = append(p.Approvers, a)
	}
	if err := r.done("policy"); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	return p, nil
}
