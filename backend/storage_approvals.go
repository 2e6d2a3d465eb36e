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

func (r *uiRecord) check() error {
	if r.PublicURL == "" || r.RPID == "" || len(r.Origins) == 0 || r.QRPeriod < 1000 || r.QRPeriod > 60_000 {
		return errOutOfBounds
	}
	return nil
}

func (r *approverRecord) check() error {
	if _, err := approval.ParseID(r.ID); err != nil {
		return err
	}
	if r.Identity == "" && len(r.Entities) == 0 && !r.NoEntities {
		return errors.New("does not say who the approver is")
	}
	return nil
}

func (r *enrolmentRecord) check() error {
	if _, err := approval.ParseID(r.ID); err != nil {
		return err
	}
	if _, err := approval.ParseID(r.ApproverID); err != nil {
		return err
	}
	if !slices.Contains([]enrolmentEnd{"", enrolmentConfirmed, enrolmentGuessed, enrolmentTwice}, r.End) || r.Tries < 0 || r.Expires.IsZero() {
		return errOutOfBounds
	}
	var hash [32]byte
	return decodeHex(r.SecretHash, hash[:], "hash of the enrolment's secret")
}

func (r *requestRecord) check() error {
	if _, err := approval.ParseID(r.ID); err != nil {
		return err
	}
	known := []requestState{requestPending, requestApproved, requestSigned, requestRefused, requestExpired, requestCancelled, requestFailed}
	sign := r.Action == approval.Sign
	if !slices.Contains(known, r.State) || !sign && r.Action != approval.ChangePolicy || len(r.Policy) == 0 || r.Requester == "" ||
		len(r.Seed) != approval.SeedSize || r.Period < 1000 || sign == (len(r.NextPolicy) > 0) || r.Expires.IsZero() {
		return errors.New("lacks what every request has")
	}
	return nil
}
