package backend

import (
	"errors"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Records of approvals:
//
//	config/ui                 uiRecord
//	approvers/<name>          approverRecord   holds TOTP secrets; seal-wrapped
//	approver-enrolments/<id>  enrolmentRecord
//	requests/<id>             requestRecord    seal-wrapped
const (
	keyUI            = prefixConfig + "ui"
	prefixApprovers  = "approvers/"
	prefixEnrolments = "approver-enrolments/"
	prefixRequests   = "requests/"
)

// uiRecord is config/ui.
type uiRecord struct {
	sinceV7
	Version int `json:"version"`
	// PublicURL is how browsers reach Vault, such as https://vault.example.com; no
	// path.
	PublicURL string `json:"public_url"`
	// RPID is the relying party's ID of passkeys, Origins the pages that may use
	// them.
	RPID    string   `json:"rp_id"`
	Origins []string `json:"origins"`
	// QRPeriod is how long a form of the code is shown, in milliseconds.
	QRPeriod int64 `json:"qr_period_ms"`
}

// approverRecord is somebody who may be named in policies. What policies say is a
// copy: nothing that changes here changes a policy.
type approverRecord struct {
	sinceV7
	Version int    `json:"version"`
	ID      string `json:"id"` // hex, 16 bytes
	// Identity is the ID of the identity that the approver is, hex; empty for none.
	Identity string `json:"identity,omitempty"`
	// Entities are the Vault entities of the same person; with Identity empty and
	// NoEntities false there is at least one.
	Entities   []string            `json:"entities,omitempty"`
	NoEntities bool                `json:"no_entities,omitempty"` // said to have none
	Keys       []approverKeyRecord `json:"keys,omitempty"`
	TOTP       *totpRecord         `json:"totp,omitempty"`
	Created    time.Time           `json:"created_time"`
}

// approverKeyRecord is a signature factor (approval.Key).
type approverKeyRecord struct {
	Kind       approval.Kind `json:"kind"`
	Name       string        `json:"name"`
	Public     []byte        `json:"public"` // SubjectPublicKeyInfo, DER
	RPID       string        `json:"rp_id,omitempty"`
	Origins    []string      `json:"origins,omitempty"`
	Credential []byte        `json:"credential,omitempty"`
	Transports []string      `json:"transports,omitempty"` // of a passkey, hints for browsers
	// Device is the ID of the device key that was enrolled with this one, hex; its
	// own for a device key.
	Device string    `json:"device"`
	Added  time.Time `json:"added_time"`
}

func (r *approverKeyRecord) key() approval.Key {
	return approval.Key{Kind: r.Kind, Name: r.Name, Public: r.Public, RPID: r.RPID, Origins: r.Origins, Credential: r.Credential}
}

// totpRecord is a one-time code's secret.
type totpRecord struct {
	Secret string `json:"secret"` // base32, as authenticator apps take it
	// Confirmed is false until a code was right once.
	Confirmed bool `json:"confirmed"`
	// LastStep is the 30-second step of the last code that was taken; that one and
	// earlier ones are refused.
	LastStep uint64    `json:"last_step"`
	Added    time.Time `json:"added_time"`
}

// String and GoString keep the secret out of every formatted output.
func (r *totpRecord) String() string   { return "TOTP secret" }
func (r *totpRecord) GoString() string { return r.String() }

// enrolmentRecord is a device that is being enrolled.
type enrolmentRecord struct {
	sinceV7
	Version    int       `json:"version"`
	ID         string    `json:"id"` // hex, 16 bytes
	Approver   string    `json:"approver"`
	ApproverID string    `json:"approver_id"`
	SecretHash string    `json:"secret_hash"` // SHA-256 of the link's secret, hex
	Created    time.Time `json:"created_time"`
	Expires    time.Time `json:"expires_time"`
	// Challenge of the passkey's registration, base64url; drawn when the device
	// begins.
	Challenge string `json:"challenge,omitempty"`
	// Keys are what the device offered, once it has; Code is what people compare.
	Keys []approverKeyRecord `json:"keys,omitempty"`
	Code string              `json:"code,omitempty"`
	// Tries counts wrong codes; the enrolment ends with the third.
	Tries int `json:"tries,omitempty"`
	// Label is what the operator calls the device.
	Label string `json:"label,omitempty"`
	// End says how it ended before its time, empty while it has not. Then nothing
	// happens to it any more; it stays until Expires so that both sides are told.
	End enrolmentEnd `json:"end,omitempty"`
}

// enrolmentEnd is why an enrolment ended before its time.
type enrolmentEnd string

const (
	enrolmentConfirmed enrolmentEnd = "confirmed"
	enrolmentGuessed   enrolmentEnd = "wrong-codes" // as many as are taken
	// enrolmentTwice: after one device had offered its keys, another one that knew
	// the link's secret came with others.
	enrolmentTwice enrolmentEnd = "used-twice"
)

// requestState is where a request is in its life. It only moves forward.
type requestState string

const (
	requestPending   requestState = "pending"
	requestApproved  requestState = "approved" // by the quorum; the signature is being made, or waits for the owner
	requestSigned    requestState = "signed"   // or, of a policy: in force
	requestRefused   requestState = "refused"
	requestExpired   requestState = "expired"
	requestCancelled requestState = "cancelled"
	requestFailed    requestState = "failed" // approved, and could not be done for a reason that stays
)

// ended reports whether nothing more happens to the request.
func (s requestState) ended() bool { return s != requestPending && s != requestApproved }

// requestRecord is one request that waits for approvals, and later its end. It is
// replaced as a whole by one Put.
type requestRecord struct {
	sinceV7
	Version   int             `json:"version"`
	ID        string          `json:"id"` // hex, 16 bytes
	Action    approval.Action `json:"action"`
	Account   string          `json:"account"`    // its name when it was asked
	AccountID string          `json:"account_id"` // hex
	State     requestState    `json:"state"`
	Reason    string          `json:"reason,omitempty"` // why it ended, where that is not clear
	Created   time.Time       `json:"created_time"`
	Expires   time.Time       `json:"expires_time"` // whole seconds
	Approved  time.Time       `json:"approved_time,omitzero"`
	Ended     time.Time       `json:"ended_time,omitzero"`

	Requester     string `json:"requester"` // "entity:…" or "identity:…"
	RequesterName string `json:"requester_name,omitempty"`
	// RequestID is the caller's, which makes the request safe to repeat; Payload is
	// SHA-256 of what was asked for, hex.
	RequestID string `json:"request_id,omitempty"`
	Payload   string `json:"payload,omitempty"`

	// Policy is the one in force when it was asked (approval.Policy.Marshal).
	Policy []byte `json:"policy"`

	// Of a signature: the message as it was sent, and in which form the signature is
	// wanted.
	Input           []byte `json:"input,omitempty"`
	MessageType     string `json:"message_type,omitempty"`
	HashAlgorithm   string `json:"hash_algorithm,omitempty"`
	DerivationPath  string `json:"derivation_path,omitempty"`
	TaprootTweak    string `json:"taproot_tweak,omitempty"`
	SignatureFormat string `json:"signature_format,omitempty"`
	Algorithm       string `json:"algorithm,omitempty"` // the account's

	// ByOwner: the account has user custody, so that its owner does what was
	// approved: signs, or refreshes with the policy to come.
	ByOwner bool `json:"by_owner,omitempty"`

	// Of a change of policy.
	NextPolicy []byte `json:"next_policy,omitempty"`
	Epoch      uint64 `json:"epoch,omitempty"`

	// Seed derives the forms of the moving code; Period is how long each is shown,
	// in milliseconds.
	Seed   []byte `json:"seed"`
	Period int64  `json:"period_ms"`

	Given []givenRecord `json:"given,omitempty"`
	// Logins are approvers who have logged in for this request through a session of
	// their identity: the factor that the coordinator checks. By approver ID, hex;
	// the value is when.
	Logins map[string]time.Time `json:"logins,omitempty"`
	// Result is the answer to the requester once it is signed: JSON of its fields.
	Result []byte `json:"result,omitempty"`
}

// givenRecord is one approver's answer.
type givenRecord struct {
	Approver   string            `json:"approver"` // ID, hex
	Name       string            `json:"name"`
	Decision   approval.Decision `json:"decision"`
	Kinds      []approval.Kind   `json:"kinds"` // that were used; Checked ones are the coordinator's word
	Signatures []signedFactor    `json:"signatures,omitempty"`
	Time       time.Time         `json:"time"`
}

// signedFactor is approval.Signature.
type signedFactor struct {
	Key               string `json:"key"` // hex
	Signature         []byte `json:"signature"`
	AuthenticatorData []byte `json:"authenticator_data,omitempty"`
	ClientData        []byte `json:"client_data,omitempty"`
}

var errOutOfBounds = errors.New("is out of bounds")

// Bounds of stored records that approval does not have.
const (
	maxStoredText    = 512 // bytes of an origin, a URL or an identifier
	maxStoredItems   = 16  // of a list
	maxEnrolTries    = 3
	maxStoredReason  = 4096
	maxStoredSecret  = 256 // characters of a TOTP secret
	minStoredPeriod  = 1000
	maxStoredPeriod  = 60_000
	maxStoredAnswers = approval.MaxApprovers
)

// texts demands that none of a list is empty or too long, and that there are few.
func texts(list []string, most int) bool {
	return len(list) <= most && !slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxStoredText })
}

// A stored URL says also where passkeys belong, or all three are left out.
func (r *uiRecord) check() error {
	none := r.PublicURL == ""
	if len(r.PublicURL) > maxStoredText || len(r.RPID) > maxStoredText || none != (r.RPID == "") || none != (len(r.Origins) == 0) ||
		!texts(r.Origins, maxStoredItems) || r.QRPeriod < minStoredPeriod || r.QRPeriod > maxStoredPeriod {
		return errOutOfBounds
	}
	return nil
}

func (r *approverRecord) check() error {
	if _, err := approval.ParseID(r.ID); err != nil {
		return err
	}
	switch {
	case r.Identity == "" && len(r.Entities) == 0 && !r.NoEntities:
		return errors.New("does not say who the approver is")
	case r.NoEntities && len(r.Entities) > 0 || !texts(r.Entities, maxStoredItems) || r.Created.IsZero():
		return errOutOfBounds
	}
	if r.Identity != "" {
		if _, err := approval.ParseID(r.Identity); err != nil {
			return err
		}
	}
	if t := r.TOTP; t != nil && (t.Secret == "" || len(t.Secret) > maxStoredSecret || t.Added.IsZero()) {
		return errOutOfBounds
	}
	// A key is added when its enrolment is confirmed, not when it is offered.
	if slices.ContainsFunc(r.Keys, func(k approverKeyRecord) bool { return k.Added.IsZero() }) {
		return errOutOfBounds
	}
	return checkApproverKeys(r.Keys)
}

// checkApproverKeys looks at the form alone: keys are checked where they are taken,
// and again where they become part of a policy.
func checkApproverKeys(keys []approverKeyRecord) error {
	if len(keys) > approval.MaxKeys {
		return errOutOfBounds
	}
	seen := map[approval.ID]bool{}
	for i := range keys {
		k := &keys[i]
		key := k.key()
		passkey := k.Kind == approval.Passkey
		if !k.Kind.Signature() || k.Name == "" || len(k.Name) > approval.MaxName || len(k.Public) == 0 || seen[key.ID()] ||
			passkey != (k.RPID != "") || passkey != (len(k.Origins) > 0) || passkey != (len(k.Credential) > 0) ||
			!texts(k.Origins, maxStoredItems) || !texts(k.Transports, maxStoredItems) {
			return errors.New("has a key that is none, or one twice")
		}
		seen[key.ID()] = true
		if _, err := approval.ParseID(k.Device); err != nil {
			return err
		}
	}
	return nil
}

// ids are those of the enrolment and of its approver.
func (r *enrolmentRecord) ids() (enrolment, approver approval.ID, err error) {
	if enrolment, err = approval.ParseID(r.ID); err == nil {
		approver, err = approval.ParseID(r.ApproverID)
	}
	return enrolment, approver, err
}

func (r *enrolmentRecord) check() error {
	if _, _, err := r.ids(); err != nil {
		return err
	}
	if r.Approver == "" || len(r.Approver) > approval.MaxName || r.Created.IsZero() || !r.Expires.After(r.Created) || r.Tries < 0 || r.Tries > maxEnrolTries {
		return errOutOfBounds
	}
	if err := checkApproverKeys(r.Keys); err != nil {
		return err
	}
	if !slices.Contains([]enrolmentEnd{"", enrolmentConfirmed, enrolmentGuessed, enrolmentTwice}, r.End) || r.Tries < 0 || r.Expires.IsZero() {
		return errOutOfBounds
	}
	var hash [32]byte
	return decodeHex(r.SecretHash, hash[:], "hash of the enrolment's secret")
}

func (r *requestRecord) check() error {
	for _, id := range []string{r.ID, r.AccountID} {
		if _, err := approval.ParseID(id); err != nil {
			return err
		}
	}
	known := []requestState{requestPending, requestApproved, requestSigned, requestRefused, requestExpired, requestCancelled, requestFailed}
	sign := r.Action == approval.Sign
	switch {
	case !slices.Contains(known, r.State) || !sign && r.Action != approval.ChangePolicy:
		return errors.New("has no state or action that this version knows")
	case r.Account == "" || len(r.Policy) == 0 || r.Requester == "" || len(r.Seed) != approval.SeedSize || r.Created.IsZero():
		return errors.New("lacks what every request has")
	case r.State.ended() != !r.Ended.IsZero():
		return errors.New("has ended at no time, or has not ended at some")
	case !r.Expires.After(r.Created) || r.Expires.Nanosecond() != 0:
		return errors.New("does not expire in whole seconds after it was made")
	case len(r.Policy) > approval.MaxPolicy || len(r.NextPolicy) > approval.MaxPolicy || len(r.Input) > maxInput || len(r.Requester) > maxStoredText ||
		len(r.RequesterName) > approval.MaxName || len(r.Reason) > maxStoredReason || r.Period < minStoredPeriod || r.Period > maxStoredPeriod ||
		len(r.Given) > maxStoredAnswers || len(r.Logins) > maxStoredAnswers:
		return errOutOfBounds
	case sign != (r.MessageType != "") || !sign && (len(r.Input) > 0 || r.HashAlgorithm != "" || r.DerivationPath != "" || r.TaprootTweak != "" || r.SignatureFormat != ""):
		return errors.New("has a message without asking for a signature, or the reverse")
	case sign == (len(r.NextPolicy) > 0) || sign == (r.Epoch > 0):
		return errors.New("has a new policy without asking for it, or the reverse")
	}
	for id, at := range r.Logins {
		if _, err := approval.ParseID(id); err != nil || at.IsZero() {
			return errors.New("has a login of nobody")
		}
	}
	seen := map[string]bool{}
	for i := range r.Given {
		g := &r.Given[i]
		if err := g.check(); err != nil {
			return err
		}
		if seen[g.Approver] {
			return errors.New("has two answers of one approver")
		}
		seen[g.Approver] = true
	}
	return nil
}

func (g *givenRecord) check() error {
	if _, err := approval.ParseID(g.Approver); err != nil {
		return err
	}
	if g.Name == "" || g.Decision != approval.Approve && g.Decision != approval.Refuse || g.Time.IsZero() || len(g.Signatures) == 0 || len(g.Signatures) > approval.MaxKeys {
		return errors.New("has an answer that is none")
	}
	for i, k := range g.Kinds {
		if !k.Valid() || slices.Contains(g.Kinds[:i], k) {
			return errors.New("has an answer by kinds of factors that are none, or twice")
		}
	}
	for _, s := range g.Signatures {
		if _, err := approval.ParseID(s.Key); err != nil {
			return err
		}
		if len(s.Signature) == 0 {
			return errors.New("has an answer without a signature")
		}
	}
	return nil
}
