package backend

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// Everything this mount stores. One entry per key, JSON, each record with the
// version of its own format; []byte fields are base64. A prefix ends in "/".
//
//	mount                       mountRecord
//	config/hsm                  hsmRecord       holds the PIN; seal-wrapped
//	config/nodes                nodesRecord
//	config/remote-nodes/<node id>
//	                            remoteNodeRecord
//	config/coordinator          coordinatorRecord  holds a private key; seal-wrapped
//	config/rotation             rotationRecord
//	config/accounts             accountsConfigRecord
//	wrapping-keys/<version>     wrappingRecord
//	node-keys/<node id>         nodeKeysRecord
//	pin-refusal                 pinRefusalRecord  the token refused the PIN
//	config/recovery             recoveryRecord  authority and recipient set in force
//	recipient-sets/<hash>       recipientSetRecord
//	accounts/<name>             accountRecord   everything of an account but
//	exposures/<account id>      exposuresRecord … exposures since its epoch began
//	import-exposures/<account id>/<target>
//	                            exposuresRecord what nodes saw in attempts to import
//	signed-requests/<hour>/<hash>
//	                            signedRequestRecord  an answer by its request_id
//	config/identities           identitiesConfigRecord  holds secrets; seal-wrapped
//	identities/<name>           identityRecord
//	assets/<identity id>/<name> assetRecord
//	authenticators/<name>       authenticatorRecord
//	authenticator-locks/<name>  authenticatorLockRecord
//	identity-keys               identityKeysRecord
//	config/ui                   uiRecord
//	approvers/<name>            approverRecord     holds TOTP secrets; seal-wrapped
//	approver-enrolments/<id>    enrolmentRecord    a device that is being enrolled
//	requests/<id>               requestRecord      what waits for approvals, and its end
//	heartbeat                   heartbeatRecord when an active server last lived
//	spares                      sparesRecord    whether exposures may be incomplete
const (
	keyMount          = "mount"
	prefixConfig      = "config/"
	keyHSM            = prefixConfig + "hsm"
	keyNodes          = prefixConfig + "nodes"
	keyRotation       = prefixConfig + "rotation"
	keyAccounts       = prefixConfig + "accounts"
	prefixRemote      = prefixConfig + "remote-nodes/"
	prefixWrapping    = "wrapping-keys/"
	prefixNodeKeys    = "node-keys/"
	prefixAccounts    = "accounts/"
	prefixExposures   = "exposures/"
	prefixImports     = "import-exposures/"
	prefixSigned      = "signed-requests/"
	keyHeartbeat      = "heartbeat"
	keySpares         = "spares"
	keyPINRefusal     = "pin-refusal"
	keyRecovery       = prefixConfig + "recovery"
	prefixRecipients  = "recipient-sets/"
	keyIdentities     = prefixConfig + "identities"
	prefixIdentities  = "identities/"
	prefixAssets      = "assets/"
	prefixAuthentic   = "authenticators/"
	prefixAuthLocks   = "authenticator-locks/"
	keyIdentityKeys   = "identity-keys"
	recordVersion     = 7       // of every record type; 1 to 6 are still read
	maxStoredRecord   = 1 << 20 // bytes; a Raft entry holds no more
	maxAccountNameLen = 128
)

// sealWrapped lists the prefixes that Vault encrypts once more with its seal
// where it has one. They need the trailing slash and no "*".
func sealWrapped() []string {
	return []string{prefixConfig, prefixNodeKeys, prefixAccounts, prefixWrapping, prefixIdentities, prefixAssets, prefixAuthentic, prefixApprovers, prefixRequests}
}

// errNewerRecord: a record written by a later version of this plugin.
var errNewerRecord = errors.New("written by a newer version of this plugin: run that version or restore a backup")

// mountRecord is the mount's identity, drawn when config/hsm is first written.
type mountRecord struct {
	Version int       `json:"version"`
	ID      [16]byte  `json:"-"`
	IDHex   string    `json:"id"` // 32 hex digits
	Created time.Time `json:"created_time"`
}

// hsmRecord is config/hsm.
type hsmRecord struct {
	Version int         `json:"version"`
	URI     string      `json:"uri"`
	Module  string      `json:"module"` // name in the host's list, never a path
	Token   tokenRecord `json:"token"`
	PIN     string      `json:"pin"` // empty where PINSource is pinFromHost
	// PINSource is pinFromVault or pinFromHost.
	PINSource string    `json:"pin_source"`
	Suite     string    `json:"suite"`
	Updated   time.Time `json:"updated_time"`
}

// Values of hsmRecord.PINSource.
const (
	pinFromVault = "vault"
	pinFromHost  = "host"
)

// pinRefusalRecord remembers over restarts that the token refused the PIN, so
// that nodes which start again and again cannot lock it. It holds as long as
// config/hsm is as it was.
type pinRefusalRecord struct {
	Version int `json:"version"`
	// Configuration is the updated_time of the hsmRecord that it is about.
	Configuration time.Time `json:"configuration_time"`
	Time          time.Time `json:"time"`
	Reason        string    `json:"reason"` // of pool.ErrPINIncorrect or ErrPINLocked; no PIN
	Locked        bool      `json:"locked"`
}

// recoveryRecord is config/authority and config/recovery in one, so that they
// change together.
type recoveryRecord struct {
	Version   int       `json:"version"`
	Authority string    `json:"authority"` // Ed25519 public key, hex
	Pinned    time.Time `json:"pinned_time"`
	// SetHash names the recipient set in force; empty for none. Serial is its
	// serial number and never falls.
	SetHash string `json:"set_hash,omitempty"`
	Serial  uint64 `json:"serial,omitempty"`
}

// recipientSetRecord is a recipient set that is or was in force.
type recipientSetRecord struct {
	Version int    `json:"version"`
	Set     []byte `json:"set"` // recovery.SignedSet
}

// tokenRecord is what the token said when config/hsm was written. The serial
// number is what selects it from then on, whatever the URI named.
type tokenRecord struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
}

// poolToken returns the token for the pool; the PIN is a copy for it to own.
func (r *hsmRecord) poolToken() pool.Token {
	return pool.Token{
		Module:   r.Module,
		Label:    r.Token.Label,
		Serial:   r.Token.Serial,
		PIN:      secret.New([]byte(r.PIN)),
		Accepted: r.Updated, // written after a probe only
	}
}

// String and GoString keep the PIN out of every formatted output.
func (r *hsmRecord) String() string   { return "hsm configuration of token " + r.Token.Serial }
func (r *hsmRecord) GoString() string { return r.String() }

// nodesRecord is config/nodes.
type nodesRecord struct {
	Version         int   `json:"version"`
	Local           int   `json:"local"`
	SessionTimeout  int64 `json:"session_timeout_seconds"`
	SessionsPerNode int   `json:"sessions_per_node"`
	// Region is that of the local nodes; empty for none.
	Region string `json:"region,omitempty"`
}

// rotationRecord is config/rotation.
type rotationRecord struct {
	Version           int   `json:"version"`
	RefreshPeriod     int64 `json:"refresh_period_seconds"`
	IdleRefreshPeriod int64 `json:"idle_refresh_period_seconds"` // 0: as RefreshPeriod
	AuxPeriod         int64 `json:"aux_period_seconds"`          // 0: auxiliary keys stay
	RewrapPeriod      int64 `json:"rewrap_period_seconds"`       // 0: new versions by hand only
	RetireAfter       int64 `json:"retire_after_seconds"`
	Concurrency       int   `json:"concurrency"`
	Rate              int   `json:"rate"` // refreshes per second
}

// heartbeatRecord is written every minute by the active server. A snapshot of
// storage holds an old one, which is how a restore is noticed.
type heartbeatRecord struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
}

// sparesRecord says that storage was restored, or may have been. Epochs with
// another lineage than its marker get no spares.
type sparesRecord struct {
	Version int       `json:"version"`
	Marker  string    `json:"marker"` // hex, 16 bytes, drawn anew each time
	Time    time.Time `json:"time"`
	Reason  string    `json:"reason"`
}

// wrappingState is where a version of the wrapping key is in its life. It only
// moves forward; a version that was destroyed leaves its record as a tombstone.
type wrappingState string

const (
	// stateLive: the newest version, which everything new is sealed to; or one
	// that was just superseded.
	stateLive wrappingState = "live"
	// stateRetired: opens what is sealed to it, and nothing new is.
	stateRetired wrappingState = "retired"
	// stateDestroying: nothing refers to it; the key pair may be there, or not,
	// or in part.
	stateDestroying wrappingState = "destroying"
	// stateDestroyed: a node has looked for it in the token and found nothing.
	stateDestroyed wrappingState = "destroyed"
)

// wrappingRecord pins one version of the wrapping key: the key of the default
// domain, whose fields are empty where the version has none there, and those of
// other domains. See domains.go.
type wrappingRecord struct {
	Version     int       `json:"version"`
	KeyVersion  uint32    `json:"key_version"`
	TokenSerial string    `json:"token_serial"`
	Domain      string    `json:"domain"`
	Suite       string    `json:"suite"`
	ID          []byte    `json:"id"`
	PublicKey   []byte    `json:"public_key"`
	Label       string    `json:"label"`
	Created     time.Time `json:"created_time"`

	State     wrappingState `json:"state"`
	Retired   time.Time     `json:"retired_time,omitzero"`
	Destroyed time.Time     `json:"destroyed_time,omitzero"`

	// Endorsement is for the default domain's key. KeyDestroyed and LeftBehind are
	// its own where the version has keys in other domains.
	Endorsement  *keyEndorsementRecord `json:"endorsement,omitempty"`
	KeyDestroyed time.Time             `json:"key_destroyed_time,omitzero"`
	LeftBehind   time.Time             `json:"left_behind_time,omitzero"`
	// Domains are the keys in other domains, by the domain's name.
	Domains []domainKeyRecord `json:"domains,omitempty"`
}

// domainKeyRecord pins the key of one wrapping domain in one version.
type domainKeyRecord struct {
	Domain      string                `json:"domain"`
	TokenLabel  string                `json:"token_label,omitempty"`  // as a node
	TokenSerial string                `json:"token_serial,omitempty"` // of the domain told
	Suite       string                `json:"suite"`
	ID          []byte                `json:"id"`
	PublicKey   []byte                `json:"public_key"`
	Label       string                `json:"label"`
	Created     time.Time             `json:"created_time"`
	Endorsement *keyEndorsementRecord `json:"endorsement,omitempty"`
	// Destroyed is when a node of the domain looked for the key and found nothing.
	Destroyed time.Time `json:"destroyed_time,omitzero"`
	// LeftBehind is when the version was destroyed without it, since no node of the
	// mount could reach its token any more.
	LeftBehind time.Time `json:"left_behind_time,omitzero"`
}

// keyEndorsementRecord is a node's word for a key (hsm.EndorseKey).
type keyEndorsementRecord struct {
	Identity  string `json:"identity"` // hex
	Signature []byte `json:"signature"`
}

// nodeKeysRecord is pool.NodeKeys.
type nodeKeysRecord struct {
	Version          int        `json:"version"`
	Identity         string     `json:"identity"` // hex
	IdentityEnvelope []byte     `json:"identity_envelope"`
	Aux              *auxRecord `json:"aux,omitempty"`
}

type auxRecord struct {
	Generation uint64            `json:"generation"`
	Made       time.Time         `json:"made_time"` // zero: not known
	Public     []byte            `json:"public"`
	Envelope   []byte            `json:"envelope"`
	Receipts   map[string][]byte `json:"receipts,omitempty"`
}

// accountRecord is all there is of an account. It is replaced as a whole by
// one Put, so an account has a consistent epoch at every moment.
type accountRecord struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // hex, 16 bytes
	Created time.Time `json:"created_time"`
	// Birth is what the nodes signed at creation. It stays when epochs pass.
	Birth birthRecord `json:"birth"`
	// RefreshPeriod is 0 where config/rotation decides.
	RefreshPeriod int64 `json:"refresh_period_seconds"`
	// Presign is how many presignatures are kept ready, 0 to maxPresign.
	Presign  int               `json:"presign"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Frozen, where it is not nil, keeps the account from signing; so does
	// Deleted. Shares go on being refreshed.
	Frozen  *frozenRecord  `json:"frozen,omitempty"`
	Deleted *deletedRecord `json:"deleted,omitempty"`
	// RenamingTo is the name that the account is being moved to. Nobody uses
	// this entry any more: the move is finished first, by whoever finds it. An
	// entry with its own name there has arrived and is used; see moves.go.
	RenamingTo string `json:"renaming_to,omitempty"`
	// Custody, where it is not nil, says whose custody key each share needs
	// beside the wrapping key.
	Custody *custodyRecord `json:"custody,omitempty"`
	Current epochRecord    `json:"current"`
	// Previous stays until what replaced it has been opened once: the shares
	// of the same epoch under another wrapping key, or, as older versions of
	// this program left them, those of the epoch before.
	Previous *epochRecord `json:"previous,omitempty"`
}

// frozenRecord says since when an account signs nothing, and why.
type frozenRecord struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"`
}

// deletedRecord says when an account was deleted, and from when on nothing
// brings it back.
type deletedRecord struct {
	Time    time.Time `json:"time"`
	Destroy time.Time `json:"destroy_time"`
}

// accountsConfigRecord is config/accounts.
type accountsConfigRecord struct {
	Version int `json:"version"`
	// DeletionWait is the shortest time from deletion to destruction.
	DeletionWait int64 `json:"deletion_wait_seconds"`
}

// signedRequestRecord is the answer to a signing request that had a request_id,
// kept so that its repetition is not signed again. The key holds the hour in
// which it was written (Unix time / 3600) and the hash of account ID and
// request_id.
type signedRequestRecord struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	Payload string    `json:"payload"` // SHA-256 of what was asked for, hex
	Answer  []byte    `json:"answer"`  // JSON of the answer's fields
}

type birthRecord struct {
	RecordHash  string              `json:"record_hash"` // hex, 32 bytes
	Certificate []endorsementRecord `json:"certificate"`
}

// epochRecord is one share epoch.
type epochRecord struct {
	Record []byte   `json:"record"` // mpc.PublicRecord.Marshal
	Shares [][]byte `json:"shares"` // hsm envelopes in index order
	// Exposures are those at the start of the epoch, or, in a previous epoch,
	// all of them.
	Exposures       map[string]mpc.Index `json:"exposures"` // by node identity, hex
	Certificate     []endorsementRecord  `json:"certificate"`
	WrappingVersion uint32               `json:"wrapping_version"`
	Started         time.Time            `json:"started_time"`
	// Rewrapped is when the shares were last sealed anew within the epoch.
	Rewrapped time.Time `json:"rewrapped_time,omitzero"`
	// Lineage is the marker of the sparesRecord when the epoch began, empty
	// where there was none.
	Lineage string `json:"lineage,omitempty"`
	// Homes says where each share lives, in index order; empty for an account whose
	// shares all live in the default domain, in whatever region.
	Homes []mpc.Home `json:"homes,omitempty"`
	// Policy is the approval policy whose hash the record names
	// (approval.Policy.Marshal); empty where it names none.
	Policy []byte `json:"policy,omitempty"`
}

type endorsementRecord struct {
	Node      string `json:"node"`
	Identity  string `json:"identity"` // hex
	Signature []byte `json:"signature"`
}

// exposuresRecord holds exposures added since an epoch began. It is ignored
// when the account is in another epoch. Under prefixImports it holds those of
// attempts to import, and the first half of the target's hash for an epoch ID.
type exposuresRecord struct {
	Version   int                  `json:"version"`
	EpochID   string               `json:"epoch_id"` // hex, 16 bytes
	Exposures map[string]mpc.Index `json:"exposures"`
}

// storedRecord is a record of any type.
type storedRecord interface {
	// fromV1 makes a record that was decoded from version 1 one of version 2,
	// and so on; the last makes it a current one. Each fails where a field was
	// given that its version does not have.
	fromV1() error
	fromV2() error
	fromV3() error
	check() error
}

// errNotItsVersion: the record has fields that its version does not have.
var errNotItsVersion = errors.New("has fields that its version does not have")

// decodeRecord reads a record into an empty one: find its version, refuse a
// newer one, decode strictly, then bring an older one up to date. A field that
// this version does not know would be lost with the next write, so it is an
// error.
func decodeRecord(raw []byte, into storedRecord) error {
	if len(raw) > maxStoredRecord {
		return fmt.Errorf("has %d bytes, more than any valid record", len(raw))
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return errors.New("is not a JSON record")
	}
	switch {
	case head.Version > recordVersion:
		return errNewerRecord
	case head.Version < 1:
		return errors.New("has no version")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		// Syntax errors may quote a value and so a PIN: they are not passed on.
		return errors.New("does not have the fields of its version")
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("is followed by other data")
	}
	if head.Version == 1 {
		if err := into.fromV1(); err != nil {
			return err
		}
	}
	if head.Version <= 2 {
		if err := into.fromV2(); err != nil {
			return err
		}
	}
	if head.Version <= 3 {
		if err := into.fromV3(); err != nil {
			return err
		}
	}
	if head.Version <= 4 {
		if err := fromV4(into); err != nil {
			return err
		}
	}
	if head.Version <= 5 {
		if err := fromV5(into); err != nil {
			return err
		}
	}
	if head.Version <= 6 {
		if err := fromV6(into); err != nil {
			return err
		}
	}
	return into.check()
}

func (r *mountRecord) check() error { return decodeHex(r.IDHex, r.ID[:], "mount ID") }

func (r *hsmRecord) check() error {
	if r.Module == "" || r.Token.Serial == "" {
		return errors.New("lacks module or token serial number")
	}
	if r.PINSource != pinFromHost && r.PINSource != pinFromVault || (r.PIN == "") != (r.PINSource == pinFromHost) {
		return errors.New("lacks the PIN, or has one that it should not have")
	}
	return nil
}

func (r *recoveryRecord) check() error {
	var key, hash [32]byte
	if err := decodeHex(r.Authority, key[:], "authority key"); err != nil {
		return err
	}
	if r.SetHash == "" {
		return nil
	}
	return decodeHex(r.SetHash, hash[:], "recipient set hash")
}

func (r *recipientSetRecord) check() error {
	if len(r.Set) == 0 {
		return errors.New("is empty")
	}
	return nil
}

func (r *pinRefusalRecord) check() error {
	if r.Configuration.IsZero() || r.Reason == "" {
		return errors.New("lacks what it is about")
	}
	return nil
}

func (r *nodesRecord) check() error {
	if r.Local < 0 || r.Local > maxLocalNodes || r.SessionTimeout < 1 || checkLabel("region", r.Region) != nil ||
		r.SessionsPerNode < 1 || r.SessionsPerNode > maxSessionsPerNode {
		return errors.New("is out of bounds")
	}
	return nil
}

func (r *rotationRecord) check() error {
	if r.RefreshPeriod < 1 || r.IdleRefreshPeriod < 0 || r.AuxPeriod < 0 || r.RewrapPeriod < 0 ||
		r.RetireAfter < 1 || r.Concurrency < 1 || r.Rate < 1 {
		return errors.New("is out of bounds")
	}
	return nil
}

func (r *accountsConfigRecord) check() error {
	if r.DeletionWait < 1 {
		return errors.New("is out of bounds")
	}
	return nil
}

func (r *signedRequestRecord) check() error {
	var hash [32]byte
	if r.Time.IsZero() || len(r.Answer) == 0 {
		return errors.New("lacks its time or the answer")
	}
	return decodeHex(r.Payload, hash[:], "payload hash")
}

func (r *heartbeatRecord) check() error {
	if r.Time.IsZero() {
		return errors.New("has no time")
	}
	return nil
}

func (r *sparesRecord) check() error {
	var marker [16]byte
	return decodeHex(r.Marker, marker[:], "marker")
}

func (r *wrappingRecord) check() error {
	// A version has a key in the default domain, in others, or in both.
	if r.KeyVersion == 0 || (len(r.ID) == 0 || len(r.PublicKey) == 0) && (len(r.Domains) == 0 || len(r.ID) != 0 || len(r.PublicKey) != 0) {
		return errors.New("lacks version, ID or public key")
	}
	before := ""
	for _, d := range r.Domains {
		if err := checkDomain(d.Domain); err != nil {
			return err
		}
		if d.Domain == hsm.DefaultDomain || d.Domain <= before {
			return errors.New("has keys of domains that are not in order")
		}
		if before = d.Domain; len(d.ID) == 0 || len(d.PublicKey) == 0 {
			return fmt.Errorf("lacks ID or public key of domain %q", d.Domain)
		}
		if err := d.Endorsement.check(); err != nil {
			return err
		}
	}
	if err := r.Endorsement.check(); err != nil {
		return err
	}
	switch r.State {
	case stateLive, stateRetired, stateDestroying, stateDestroyed:
		return nil
	}
	return errors.New("has no state that this version knows")
}

func (e *keyEndorsementRecord) check() error {
	if e == nil {
		return nil
	}
	if len(e.Signature) != 64 {
		return errors.New("has an endorsement that is no signature")
	}
	_, err := mpc.ParseNodeIdentity(e.Identity)
	return err
}

func (r *nodeKeysRecord) check() error {
	_, err := mpc.ParseNodeIdentity(r.Identity)
	return err
}

func (r *exposuresRecord) check() error {
	var id mpc.EpochID
	if err := decodeHex(r.EpochID, id[:], "epoch ID"); err != nil {
		return err
	}
	_, err := parseExposures(r.Exposures)
	return err
}

func (r *accountRecord) check() error {
	var id mpc.AccountID
	if err := decodeHex(r.ID, id[:], "account ID"); err != nil {
		return err
	}
	if r.Presign < 0 || r.Presign > maxPresign {
		return errors.New("asks for a number of presignatures that is out of bounds")
	}
	if r.Deleted != nil && (r.Deleted.Time.IsZero() || r.Deleted.Destroy.Before(r.Deleted.Time)) || r.Frozen != nil && r.Frozen.Time.IsZero() {
		return errors.New("is frozen or deleted at no time")
	}
	if r.RenamingTo != "" && !accountName.MatchString(r.RenamingTo) {
		return errors.New("is being given a name that accounts cannot have")
	}
	if r.Custody != nil {
		if err := r.Custody.check(); err != nil {
			return err
		}
	}
	epochs := []*epochRecord{&r.Current}
	if r.Previous != nil {
		epochs = append(epochs, r.Previous)
	}
	for _, e := range epochs {
		a, err := e.account()
		if err != nil {
			return err
		}
		if a.Record.AccountID != id {
			return errors.New("holds the public record of another account")
		}
	}
	return nil
}

// account returns the epoch as the pool takes it.
func (e *epochRecord) account() (*mpc.Account, error) {
	record, err := mpc.ParsePublicRecord(e.Record)
	if err != nil {
		return nil, err
	}
	if len(e.Shares) != record.Shares {
		return nil, fmt.Errorf("holds %d of %d shares", len(e.Shares), record.Shares)
	}
	a := &mpc.Account{Record: *record}
	for i, envelope := range e.Shares {
		a.Shares = append(a.Shares, mpc.WrappedShare{Index: mpc.Index(i + 1), Envelope: envelope})
	}
	if a.Exposures, err = parseExposures(e.Exposures); err != nil {
		return nil, err
	}
	for _, index := range a.Exposures {
		if int(index) > record.Shares {
			return nil, fmt.Errorf("exposes share %d of %d", index, record.Shares)
		}
	}
	if err := homesFit(e.Homes, record.Shares); err != nil {
		return nil, err
	}
	a.Homes = e.Homes
	if _, err := e.policy(record); err != nil {
		return nil, err
	}
	return a, nil
}

// homesFit demands a home for each share, or none at all.
func homesFit(homes []mpc.Home, shares int) error {
	if len(homes) == 0 {
		return nil
	}
	if len(homes) != shares {
		return fmt.Errorf("has homes for %d of %d shares", len(homes), shares)
	}
	for _, h := range homes {
		if err := checkDomain(h.Domain); err != nil {
			return err
		}
	}
	return nil
}

func parseExposures(in map[string]mpc.Index) (mpc.Exposures, error) {
	out := make(mpc.Exposures, len(in))
	for node, index := range in {
		id, err := mpc.ParseNodeIdentity(node)
		if err != nil {
			return nil, err
		}
		if index < 1 || index > mpc.MaxShares {
			return nil, fmt.Errorf("exposes share %d", index)
		}
		out[id] = index
	}
	return out, nil
}

func formatExposures(in mpc.Exposures) map[string]mpc.Index {
	out := make(map[string]mpc.Index, len(in))
	for node, index := range in {
		out[node.String()] = index
	}
	return out
}

func decodeHex(s string, dst []byte, what string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(dst) || s != strings.ToLower(s) {
		return fmt.Errorf("%s must be %d lower-case hex digits", what, 2*len(dst))
	}
	copy(dst, b)
	return nil
}
