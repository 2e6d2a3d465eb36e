package client

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Algorithm is an account's signature algorithm.
type Algorithm string

// The engine's algorithms.
const (
	BIP340Secp256k1 Algorithm = "bip340-secp256k1" // Bitcoin Taproot
	Ed25519         Algorithm = "ed25519"
	ECDSASecp256k1  Algorithm = "ecdsa-secp256k1" // Ethereum, Bitcoin, Cosmos
	ECDSAP256       Algorithm = "ecdsa-p256"
)

// State says what an account may do.
type State string

// An account signs in StateActive only.
const (
	StateActive  State = "active"
	StateFrozen  State = "frozen"
	StateDeleted State = "deleted" // until its DestroyTime, when it goes for good
)

// Account is what the engine says about an account: public facts only.
type Account struct {
	Name         string
	ID           string // random, in hex; another account that takes the name has another
	Algorithm    Algorithm
	Threshold    int    // shares needed to sign
	Shares       int    // shares there are
	PublicKey    []byte // see the package comment for its encoding
	PublicKeyPEM string // SubjectPublicKeyInfo
	ChainCode    []byte // BIP-32, 32 bytes; nil where the algorithm has no child keys

	State         State
	FrozenTime    time.Time
	FrozenReason  string
	DeletedTime   time.Time
	DestroyTime   time.Time
	Metadata      map[string]string
	Presign       int  // presignatures to keep ready
	Presignatures *int // that are ready; nil if the server does not know
	// Addresses by kind, such as AddressEthereum; nil with ecdsa-p256.
	Addresses map[AddressKind]string

	ShareEpoch       uint64 // counts refreshes from 1
	WrappingVersion  int    // of the HSM key that the shares are sealed to
	CreatedTime      time.Time
	LastRefreshTime  time.Time
	NextRefreshTime  time.Time
	RefreshPeriod    time.Duration // longest time between two
	LastRefreshError string        // empty when it did not fail
	LastRewrapTime   time.Time
	NextRewrapTime   time.Time
	LastRewrapError  string

	RecoveryRecipients []string // names of the custodians, in share order
	RecipientsCurrent  bool     // whether these are the ones in force

	// SessionID is that of the protocol session by which this very request made
	// the key or the shares, in hex; empty if it made none.
	SessionID string
	// Warnings that came with this answer.
	Warnings []string
}

// accountData is an account as it is sent.
type accountData struct {
	Name               string                 `json:"name"`
	ID                 string                 `json:"id"`
	Algorithm          Algorithm              `json:"algorithm"`
	Threshold          int                    `json:"threshold"`
	Shares             int                    `json:"shares"`
	PublicKeyHex       hexText                `json:"public_key_hex"`
	PublicKey          string                 `json:"public_key"`
	ChainCode          hexText                `json:"chain_code"`
	State              State                  `json:"state"`
	FrozenTime         stamp                  `json:"frozen_time"`
	FrozenReason       string                 `json:"frozen_reason"`
	DeletedTime        stamp                  `json:"deleted_time"`
	DestroyTime        stamp                  `json:"destroy_time"`
	Metadata           map[string]string      `json:"metadata"`
	Presign            int                    `json:"presign"`
	Presignatures      *int                   `json:"presignatures"`
	Addresses          map[AddressKind]string `json:"addresses"`
	ShareEpoch         uint64                 `json:"share_epoch"`
	WrappingVersion    int                    `json:"wrapping_version"`
	CreatedTime        stamp                  `json:"created_time"`
	LastRefreshTime    stamp                  `json:"last_refresh_time"`
	NextRefreshTime    stamp                  `json:"next_refresh_time"`
	RefreshPeriod      seconds                `json:"refresh_period"`
	LastRefreshError   string                 `json:"last_refresh_error"`
	LastRewrapTime     stamp                  `json:"last_rewrap_time"`
	NextRewrapTime     stamp                  `json:"next_rewrap_time"`
	LastRewrapError    string                 `json:"last_rewrap_error"`
	RecoveryRecipients []string               `json:"recovery_recipients"`
	RecipientsCurrent  bool                   `json:"recipients_current"`
	SessionID          string                 `json:"session_id"`
}

func (d *accountData) account(warnings []string) *Account {
	return &Account{
		Name: d.Name, ID: d.ID, Algorithm: d.Algorithm, Threshold: d.Threshold, Shares: d.Shares,
		PublicKey: d.PublicKeyHex, PublicKeyPEM: d.PublicKey, ChainCode: d.ChainCode,
		State: d.State, FrozenTime: d.FrozenTime.Time, FrozenReason: d.FrozenReason,
		DeletedTime: d.DeletedTime.Time, DestroyTime: d.DestroyTime.Time, Metadata: d.Metadata,
		Presign: d.Presign, Presignatures: d.Presignatures, Addresses: d.Addresses,
		ShareEpoch: d.ShareEpoch, WrappingVersion: d.WrappingVersion, CreatedTime: d.CreatedTime.Time,
		LastRefreshTime: d.LastRefreshTime.Time, NextRefreshTime: d.NextRefreshTime.Time,
		RefreshPeriod: time.Duration(d.RefreshPeriod), LastRefreshError: d.LastRefreshError,
		LastRewrapTime: d.LastRewrapTime.Time, NextRewrapTime: d.NextRewrapTime.Time, LastRewrapError: d.LastRewrapError,
		RecoveryRecipients: d.RecoveryRecipients, RecipientsCurrent: d.RecipientsCurrent,
		SessionID: d.SessionID, Warnings: warnings,
	}
}

// CreateOptions of a new account. Algorithm is required; for the other fields
// zero leaves the choice to the engine.
type CreateOptions struct {
	Algorithm Algorithm
	Threshold int // shares needed to sign, 2 to Shares; the engine's default is 2
	Shares    int // at most the mount's nodes and 16; the engine's default is 3
	// RefreshPeriod is the longest time between two refreshes, 1 second to a
	// year; zero: as the mount is configured.
	RefreshPeriod time.Duration
	// Presign is how many presignatures the nodes keep ready, 0 to 64. ECDSA only.
	Presign int
	// Metadata: up to 32 pairs for people, not secret.
	Metadata map[string]string
}

// CreateAccount makes a key that exists only as shares. Repeating it is safe: on
// an account that exists with the same algorithm, threshold and shares it changes
// the settings that are given and makes no key, and the answer's SessionID is
// empty; if one of the three differs the answer is ErrInvalid.
func (c *Client) CreateAccount(ctx context.Context, name string, o CreateOptions) (*Account, error) {
	body := map[string]any{"algorithm": o.Algorithm}
	if o.Threshold != 0 {
		body["threshold"] = o.Threshold
	}
	if o.Shares != 0 {
		body["shares"] = o.Shares
	}
	if o.RefreshPeriod != 0 {
		body["refresh_period"] = durationText(o.RefreshPeriod)
	}
	if o.Presign != 0 {
		body["presign"] = o.Presign
	}
	if o.Metadata != nil {
		body["metadata"] = o.Metadata
	}
	return c.accountCall(ctx, http.MethodPut, name, "", "create", body)
}

// Settings of an account that can be changed; nil leaves one as it is.
type Settings struct {
	RefreshPeriod *time.Duration // 0: as the mount is configured
	Presign       *int
	Metadata      map[string]string // replaces all pairs
}

// UpdateAccount changes settings of an account that exists.
func (c *Client) UpdateAccount(ctx context.Context, name string, s Settings) (*Account, error) {
	body := map[string]any{}
	if s.RefreshPeriod != nil {
		body["refresh_period"] = durationText(*s.RefreshPeriod)
	}
	if s.Presign != nil {
		body["presign"] = *s.Presign
	}
	if s.Metadata != nil {
		body["metadata"] = s.Metadata
	}
	return c.accountCall(ctx, http.MethodPut, name, "", "change", body)
}

// Account reads an account.
func (c *Client) Account(ctx context.Context, name string) (*Account, error) {
	return c.accountCall(ctx, http.MethodGet, name, "", "read", nil)
}

// Refresh gives the account new shares of the same key now. It happens by itself
// every RefreshPeriod.
func (c *Client) Refresh(ctx context.Context, name string) (*Account, error) {
	return c.accountCall(ctx, http.MethodPut, name, "/refresh", "refresh", map[string]any{})
}

// accountCall sends a request that is answered with an account.
func (c *Client) accountCall(ctx context.Context, method, name, suffix, what string, body any) (*Account, error) {
	r, err := onAccount(method, "accounts/", name, suffix, what, body)
	if err != nil {
		return nil, err
	}
	var d accountData
	warnings, err := c.do(ctx, r, &d)
	if err != nil {
		return nil, err
	}
	if d.Name == "" || d.Algorithm == "" {
		return nil, fmt.Errorf("cannot %s: the answer holds no account", r.op)
	}
	return d.account(warnings), nil
}
