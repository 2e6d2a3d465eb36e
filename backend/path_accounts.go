package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/rotation"
)

// Bounds on an account's metadata.
const (
	maxMetadata      = 32  // pairs
	maxMetadataKey   = 128 // bytes
	maxMetadataValue = 512 // bytes
)

func accountAnswerFields() map[string]*framework.FieldSchema {
	out := map[string]*framework.FieldSchema{
		"name":                field(framework.TypeString, "Name of the account."),
		"id":                  field(framework.TypeString, "Random ID to which everything authenticated is bound, in hex."),
		"algorithm":           field(framework.TypeString, "Signature algorithm."),
		"threshold":           field(framework.TypeInt, "Shares needed to sign."),
		"shares":              field(framework.TypeInt, "Number of shares."),
		"public_key":          field(framework.TypeString, "Public key as PEM SubjectPublicKeyInfo."),
		"public_key_hex":      field(framework.TypeString, "Public key in hex: 33 bytes SEC 1 compressed (ECDSA), 32 bytes x-only (BIP-340) or RFC 8032 (Ed25519)."),
		"addresses":           optional(framework.TypeMap, addressesField+" Those of bip340-secp256k1 are of the key with taproot_tweak=bip86. Absent for ecdsa-p256."),
		"chain_code":          optional(framework.TypeString, "BIP-32 chain code in hex, for the secp256k1 algorithms, whose keys have children."),
		"presign":             field(framework.TypeInt, "How many presignatures are kept ready."),
		"presignatures":       optional(framework.TypeInt, "How many presignatures can be used now. The active server knows."),
		"spares_allowed":      optional(framework.TypeBool, "Whether nodes that have seen no share of this epoch may take one over: not after a restore of storage, until the next refresh. The active server knows."),
		"share_epoch":         field(framework.TypeInt64, "Counts refreshes from 1."),
		"epoch_id":            field(framework.TypeString, "Random ID of the share epoch, in hex."),
		"record_hash":         field(framework.TypeString, "SHA-256 of the epoch's public record, in hex."),
		"wrapping_version":    field(framework.TypeInt, "Version of the wrapping key that the shares are sealed to."),
		"created_time":        field(framework.TypeString, "When the account was created."),
		"last_refresh_time":   field(framework.TypeString, "When the account got its present shares."),
		"next_refresh_time":   field(framework.TypeString, "When the account gets its next shares."),
		"refresh_period":      field(framework.TypeInt64, "Longest time between two refreshes, in seconds."),
		"last_refresh_error":  field(framework.TypeString, "Why the last refresh failed, empty when it did not."),
		"refresh_failures":    optional(framework.TypeInt, "How many refreshes failed in a row. The active server knows."),
		"idle":                optional(framework.TypeBool, "Whether nobody has used the account since its last refresh, so that idle_refresh_period holds. The active server knows."),
		"last_rewrap_time":    field(framework.TypeString, "When the present shares were last sealed to a new wrapping key; empty where that came with their refresh."),
		"next_rewrap_time":    field(framework.TypeString, "When the present shares are next sealed to a new wrapping key without a refresh; empty where that is not needed."),
		"last_rewrap_error":   field(framework.TypeString, "Why the last attempt to seal them to a new wrapping key failed, empty when it did not."),
		"metadata":            field(framework.TypeMap, "Key-value pairs of the owner."),
		"recovery_recipients": field(framework.TypeStringSlice, "Names of the custodians that the shares are sealed to besides the token, in share order; empty for none."),
		"recipients_current":  field(framework.TypeBool, "Whether recovery_recipients are the recipients in force (config/recovery); if not, the next refresh changes that."),
		"placement":           placementField(),
		"birth_certificate":   field(framework.TypeSlice, "Signatures of the nodes that made the key: node, identity (hex), signature (base64)."),
		"birth_record_hash":   field(framework.TypeString, "SHA-256 of the public record that the birth certificate covers, in hex."),
	}
	maps.Copy(out, stateFields())
	maps.Copy(out, custodyAnswerFields())
	out["policy_hash"] = optional(framework.TypeString, "Of an account whose signatures people approve: hash of its approval policy in hex, which the public record names.")
	out["policy"] = optional(framework.TypeString, "That policy in a line; accounts/:name/policy has all of it.")
	return out
}

func (b *backend) pathAccounts() []*framework.Path {
	created := accountAnswerFields()
	created["session_id"] = optional(framework.TypeString, "ID of the protocol session, in hex.")
	refreshed := accountAnswerFields()
	refreshed["session_id"] = field(framework.TypeString, "ID of the protocol session, in hex.")
	return []*framework.Path{
		{
			Pattern: "accounts/" + namePattern + "/refresh$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationVerb: "refresh", OperationSuffix: "account",
			},
			Fields: map[string]*framework.FieldSchema{"name": nameField()},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.operation("Give an account new shares now.", true, b.handle("accounts/refresh", 0, b.accountRefresh), refreshed),
			},
			HelpSynopsis: "Give an account new shares of the same key, now.",
			HelpDescription: `
Replaces every share of the account; the public key stays:

  $ vault write -force mpc/accounts/alice/refresh

This happens by itself every refresh_period. All n shares take part, so as
many nodes must be ready.
`,
		},
		{
			Pattern: "accounts/" + namePattern + "$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationSuffix: "account", ItemType: "Account",
			},
			Fields: withPolicyFields(custodyFields(map[string]*framework.FieldSchema{
				"name": nameField(),
				"algorithm": {
					Type:         framework.TypeString,
					Description:  algorithmList() + ". Cannot be changed later.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Algorithm"},
				},
				"threshold": {
					Type:         framework.TypeInt,
					Description:  "Shares needed to sign, 2 to shares; default 2. Cannot be changed later.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Threshold", Value: defaultThreshold},
				},
				"shares": {
					Type:         framework.TypeInt,
					Description:  "Number of shares, at most the number of nodes and 16; default 3. Cannot be changed later.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Shares", Value: defaultShares},
				},
				"refresh_period": {
					Type:         framework.TypeDurationSecond,
					Description:  "Longest time between two refreshes, 1s to a year; 0 for that of config/rotation (default).",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh period"},
				},
				"presign": {
					Type:         framework.TypeInt,
					Description:  "ECDSA only: how many presignatures the nodes keep ready, 0 to 64; default 0. Each costs seconds of processor time, makes one signature on a message that nodes hash (not on a digest) fast, and is void after a refresh.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Presignatures", Value: 0},
				},
				"domains": {
					Type:         framework.TypeCommaStringSlice,
					Description:  "Only at creation: the wrapping domains whose nodes get shares; default all. See nodes/ for the domain of each node.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Domains"},
				},
				"metadata": {
					Type:         framework.TypeKVPairs,
					Description:  "Up to 32 key-value pairs for people; not secret. Replaces what was there.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Metadata"},
				},
				"delete_after": {
					Type:         framework.TypeDurationSecond,
					Description:  "Only with DELETE, as a query parameter: how long the account can be restored, at least deletion_wait of config/accounts (default), at most 87600h.",
					Query:        true,
					DisplayAttrs: &framework.DisplayAttributes{Name: "Delete after"},
				},
			})),
			ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
				name, err := checkAccountName(data)
				if err != nil {
					return false, nil // the handler says what is wrong
				}
				entry, err := b.store.s.Get(ctx, prefixAccounts+name)
				return entry != nil, err
			}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: b.operation("Create an account.", true, b.handle("accounts/create", 0, b.accountCreate), created),
				logical.UpdateOperation: b.operation("Change an account's settings.", true, b.handle("accounts/update", 0, b.accountUpdate), created),
				logical.ReadOperation:   b.operation("Read an account.", false, b.handle("accounts/read", 0, b.accountRead), accountAnswerFields()),
				logical.DeleteOperation: b.operation("Delete an account, which can be restored for a while.", true, b.handle("accounts/delete", 0, b.accountDelete), accountAnswerFields()),
			},
			HelpSynopsis: "A threshold key: create it, read its public facts, change its settings.",
			HelpDescription: `
Creates an account whose private key exists only as wrapped shares:

  $ vault write mpc/accounts/alice algorithm=bip340-secp256k1 threshold=2 shares=3
  $ vault write mpc/accounts/bob algorithm=ecdsa-secp256k1 refresh_period=1h metadata=team=ops
  $ vault write mpc/accounts/bob presign=8

The algorithms are bip340-secp256k1, ed25519, ecdsa-secp256k1 and ecdsa-p256.
On an account that exists the same command changes presign, refresh_period and
metadata; the other fields cannot be changed. Sign with mpc/sign/alice.

With custody_identity and custody_asset each share needs the identity's custody key
beside the HSM's. Such an account signs with mpc/custody/carol/begin, which mpckms
account sign does, and is refreshed by its owner:

  $ vault write mpc/accounts/carol algorithm=ed25519 custody_identity=carol custody_asset=carol-key

Where nodes are in several regions, shares are spread so that no region has
threshold of them if that can be, and placement says what is reached. domains names
the wrapping domains that may get one; mpc/accounts/alice/move changes that later:

  $ vault write mpc/accounts/dave algorithm=ed25519 domains=eu,us

With approvers every signature waits until quorum of them have approved it on devices
of their own (mpc/approvers/); mpc/accounts/erin/policy shows and changes that:

  $ vault write mpc/accounts/erin algorithm=ed25519 approvers=ann,ben,carl quorum=2

An ECDSA account with presign keeps presignatures in its nodes' memory and
makes them anew in the background. They serve messages that nodes hash under the
account's own key; digests and child keys are signed without.
` + deleteHelp,
		},
	}
}

func (b *backend) accountRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.accountAnswer(ctx, name, r)
}

// accountAnswer is what is said about an account: public facts only.
func (b *backend) accountAnswer(ctx context.Context, name string, r *accountRecord) (*logical.Response, error) {
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	record := &a.Record
	pemKey, err := publicKeyPEM(record.Algorithm, record.PublicKey)
	if err != nil {
		return nil, err
	}
	status, scheduled := b.runner.Status(name)
	if !scheduled {
		status.Next = rotation.Next(scheduleOf(name, r), b.runner.Policy())
	}
	certificate := make([]map[string]any, len(r.Birth.Certificate))
	for i, c := range r.Birth.Certificate {
		certificate[i] = map[string]any{
			"node": c.Node, "identity": c.Identity, "signature": base64.StdEncoding.EncodeToString(c.Signature),
		}
	}
	metadata := r.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	hash := record.Hash()
	custodians, current, err := b.custodians(ctx, record)
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"recovery_recipients": custodians,
		"recipients_current":  current,
		"name":                name,
		"id":                  r.ID,
		"algorithm":           string(record.Algorithm),
		"threshold":           record.Threshold,
		"shares":              record.Shares,
		"public_key":          pemKey,
		"public_key_hex":      hex.EncodeToString(record.PublicKey),
		"share_epoch":         record.Epoch,
		"epoch_id":            record.EpochID.String(),
		"record_hash":         hex.EncodeToString(hash[:]),
		"wrapping_version":    int(r.Current.WrappingVersion),
		"created_time":        rfc3339(r.Created),
		"last_refresh_time":   rfc3339(r.Current.Started),
		"next_refresh_time":   rfc3339(status.Next),
		"refresh_period":      int64(b.refreshPeriod(r) / time.Second),
		"presign":             r.Presign,
		"last_refresh_error":  status.LastError,
		"last_rewrap_time":    rfc3339(r.Current.Rewrapped),
		"next_rewrap_time":    rfc3339(status.NextRewrap),
		"last_rewrap_error":   status.LastRewrapError,
		"metadata":            metadata,
		"birth_certificate":   certificate,
		"birth_record_hash":   r.Birth.RecordHash,
	}
	stateAnswer(r, out)
	if err := b.custodyAnswer(ctx, name, r, out); err != nil {
		return nil, err
	}
	if err := b.addPlacement(ctx, a, out); err != nil {
		return nil, err
	}
	policy, err := r.Current.policy(record)
	if err != nil {
		return nil, err
	}
	if policy != nil {
		out["policy_hash"], out["policy"] = hex.EncodeToString(record.PolicyHash[:]), policySummary(policy)
	}
	if record.Algorithm.Derives() {
		out["chain_code"] = hex.EncodeToString(record.ChainCode[:])
	}
	if err := addAddresses(out, record, mpc.Derivation{}); err != nil {
		return nil, err
	}
	if b.active() { // others do not know
		out["refresh_failures"], out["idle"] = status.Failures, status.Idle
		out["presignatures"] = 0
		if eng := b.runningEngine(); eng != nil {
			out["presignatures"] = eng.Presignatures(record.AccountID, hash)
		}
		out["spares_allowed"] = b.spares.allow(ctx, r.Current.Lineage)
	}
	return &logical.Response{Data: out}, nil
}

// algorithmList names the algorithms for people.
func algorithmList() string {
	all := mpc.Algorithms()
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = string(a)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func (b *backend) accountRefresh(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := needsOwner(name, r.Custody); err != nil {
		return nil, err // refused, which is no failure of the account
	}
	res, err := b.refreshAccount(ctx, name)
	if err != nil {
		b.runner.Failed(name, err)
		return nil, err
	}
	b.accountChanged(name, res.record)
	resp, err := b.accountAnswer(ctx, name, res.record)
	if err != nil {
		return nil, err
	}
	resp.Data["session_id"] = res.sessionID.String()
	return resp, nil
}
