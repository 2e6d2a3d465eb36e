package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Key names a key of an account: its own with the zero value, else a child.
type Key struct {
	DerivationPath string // as in SignRequest
	TaprootTweak   string // as in SignRequest
}

// fields of a request; empty ones are left out.
func (k Key) fields() map[string]any {
	body := map[string]any{}
	setText(body, "derivation_path", k.DerivationPath)
	setText(body, "taproot_tweak", k.TaprootTweak)
	return body
}

func setText(body map[string]any, field, value string) {
	if value != "" {
		body[field] = value
	}
}

// DerivedKey is a child key, public half.
type DerivedKey struct {
	PublicKey    []byte // see the package comment for its encoding
	PublicKeyPEM string
	ChainCode    []byte // 32 bytes; children of the child can be derived anywhere
	Addresses    map[AddressKind]string
	Key          // that Sign takes
	Warnings     []string
}

// Derive returns a child's public key (BIP-32 without hardened steps; BIP-341).
// secp256k1 only.
func (c *Client) Derive(ctx context.Context, account string, key Key) (*DerivedKey, error) {
	r, err := onAccount(http.MethodPut, "accounts/", account, "/derive", "derive a key of", key.fields())
	if err != nil {
		return nil, err
	}
	var d struct {
		PublicKeyHex   hexText                `json:"public_key_hex"`
		PublicKey      string                 `json:"public_key"`
		ChainCode      hexText                `json:"chain_code"`
		Addresses      map[AddressKind]string `json:"addresses"`
		DerivationPath string                 `json:"derivation_path"`
		TaprootTweak   string                 `json:"taproot_tweak"`
	}
	warnings, err := c.do(ctx, r, &d)
	if err != nil {
		return nil, err
	}
	if len(d.PublicKeyHex) == 0 {
		return nil, fmt.Errorf("cannot %s: the answer holds no key", r.op)
	}
	return &DerivedKey{PublicKey: d.PublicKeyHex, PublicKeyPEM: d.PublicKey, ChainCode: d.ChainCode, Addresses: d.Addresses,
		Key: Key{d.DerivationPath, d.TaprootTweak}, Warnings: warnings}, nil
}

// AddressKind is a chain and form of address.
type AddressKind string

// The kinds that the engine knows.
const (
	AddressEthereum             AddressKind = "ethereum" // EIP-55; ecdsa-secp256k1
	AddressBitcoinP2WPKH        AddressKind = "bitcoin_p2wpkh"
	AddressBitcoinP2WPKHTestnet AddressKind = "bitcoin_p2wpkh_testnet"
	AddressCosmos               AddressKind = "cosmos"       // bech32
	AddressBitcoinP2TR          AddressKind = "bitcoin_p2tr" // bip340-secp256k1
	AddressBitcoinP2TRTestnet   AddressKind = "bitcoin_p2tr_testnet"
	AddressSolana               AddressKind = "solana" // ed25519
)

// AddressOptions of Addresses; the zero value stands for the account's own key.
type AddressOptions struct {
	Key
	CosmosPrefix string // human-readable part; default "cosmos"
}

// Addresses are the addresses of one key.
type Addresses struct {
	ByKind map[AddressKind]string
	// TaprootTweak is what a signature that spends from the Taproot address has
	// to be asked for with; empty where there is none.
	TaprootTweak string
	Warnings     []string
}

// Addresses returns the addresses of the account's key or of a child.
func (c *Client) Addresses(ctx context.Context, account string, o AddressOptions) (*Addresses, error) {
	body := o.fields()
	setText(body, "cosmos_prefix", o.CosmosPrefix)
	r, err := onAccount(http.MethodPut, "accounts/", account, "/addresses", "read addresses of", body)
	if err != nil {
		return nil, err
	}
	var d struct {
		Addresses    map[AddressKind]string `json:"addresses"`
		TaprootTweak string                 `json:"taproot_tweak"`
	}
	warnings, err := c.do(ctx, r, &d)
	if err != nil {
		return nil, err
	}
	if len(d.Addresses) == 0 {
		return nil, fmt.Errorf("cannot %s: the answer holds none", r.op)
	}
	return &Addresses{ByKind: d.Addresses, TaprootTweak: d.TaprootTweak, Warnings: warnings}, nil
}

// JWK is a public key as of RFC 7517. Coordinates are base64url without padding.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y,omitempty"`
	Algorithm string `json:"alg"` // ES256, ES256K or EdDSA
	Use       string `json:"use"`
	KeyID     string `json:"kid"` // RFC 7638 thumbprint
	// JSON is the key as the engine wrote it, for a JWKS document.
	JSON []byte `json:"-"`
}

// JWK returns the account's key, or the child's at a path, as a JWK. Not for
// bip340-secp256k1.
func (c *Client) JWK(ctx context.Context, account, derivationPath string) (*JWK, error) {
	r, err := onAccount(http.MethodGet, "accounts/", account, "/jwk", "read the JWK of", nil)
	if err != nil {
		return nil, err
	}
	if derivationPath != "" {
		r.query = map[string][]string{"derivation_path": {derivationPath}}
	}
	var d struct {
		JSON string `json:"jwk_json"`
	}
	if _, err := c.do(ctx, r, &d); err != nil {
		return nil, err
	}
	key := &JWK{JSON: []byte(d.JSON)}
	if err := json.Unmarshal(key.JSON, key); err != nil || key.KeyType == "" {
		return nil, fmt.Errorf("cannot %s: the answer holds none", r.op)
	}
	return key, nil
}

// CSRRequest says what a certificate request contains. With Template its other
// fields are left empty.
type CSRRequest struct {
	CommonName         string
	Organization       []string
	OrganizationalUnit []string
	Country            []string
	Locality           []string
	Province           []string
	AltNames           []string // DNS names and e-mail addresses
	IPSANs             []string
	URISANs            []string
	// Template is the PEM of a request whose subject and extensions are taken
	// over; its key and signature are replaced.
	Template []byte
}

// CSR is a certificate request (RFC 2986).
type CSR struct {
	PEM          []byte
	PublicKeyPEM string   // the account's, as it is in the request
	Warnings     []string // such as parts of a template that were left out
}

// CSR returns a certificate request that the account has signed.
// ecdsa-p256 and ed25519 only. Programs that have an x509 template of their own can
// use x509.CreateCertificateRequest with Signer as well.
func (c *Client) CSR(ctx context.Context, account string, req CSRRequest, opts ...Option) (*CSR, error) {
	body := map[string]any{}
	setText(body, "common_name", req.CommonName)
	setText(body, "csr", string(req.Template))
	for field, values := range map[string][]string{
		"organization": req.Organization, "organizational_unit": req.OrganizationalUnit, "country": req.Country,
		"locality": req.Locality, "province": req.Province, "alt_names": req.AltNames, "ip_sans": req.IPSANs, "uri_sans": req.URISANs,
	} {
		if len(values) > 0 {
			body[field] = values
		}
	}
	r, err := onAccount(http.MethodPut, "accounts/", account, "/csr", "make a certificate request of", body)
	if err != nil {
		return nil, err
	}
	var d struct {
		CSR       string `json:"csr"`
		PublicKey string `json:"public_key"`
	}
	var warnings []string
	o := optionsOf(opts)
	err = o.waiting(ctx, func() (err error) {
		warnings, err = c.do(ctx, r, &d)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(d.CSR, "-----BEGIN CERTIFICATE REQUEST-----") {
		return nil, fmt.Errorf("cannot %s: the answer holds none", r.op)
	}
	return &CSR{PEM: []byte(d.CSR), PublicKeyPEM: d.PublicKey, Warnings: warnings}, nil
}
