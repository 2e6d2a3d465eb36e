package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/secret"
)

// identityRecord is identity.json. The seed (32 bytes) is sealed by a wrapping key
// of its own, which the token never gives away: who copies the file has nothing.
type identityRecord struct {
	Version  int               `json:"version"`
	Node     string            `json:"node"`
	Identity string            `json:"identity"` // hex, public
	Key      identityKeyRecord `json:"wrapping_key"`
	Envelope []byte            `json:"envelope"`
}

type identityKeyRecord struct {
	Suite     uint8  `json:"suite"`
	ID        []byte `json:"id"` // CKA_ID
	PublicKey []byte `json:"public_key"`
	Label     string `json:"label"`
}

func (r *identityRecord) version() int { return r.Version }

// identityDomain is in the key's record only; no share is ever sealed to the key.
const identityDomain = "node"

func (k identityKeyRecord) key() hsm.WrappingKey {
	return hsm.WrappingKey{Domain: identityDomain, Version: 1, Suite: hsm.Suite(k.Suite), ID: k.ID, PublicKey: k.PublicKey, Label: k.Label}
}

// identityContext binds the envelope to the node. The mount ID is zero, which no
// mount has: the identity is older than the enrolment.
func identityContext(name string) hsm.Context {
	return hsm.NodeKeyContext(hsm.NodeKeyIdentity, [16]byte{}, name, 0)
}

// readIdentity reads the record; nil where there is none.
func readIdentity(d stateDir, name string) (*identityRecord, error) {
	var r identityRecord
	switch err := d.readJSON(identityFile, &r); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if r.Node != name {
		return nil, fmt.Errorf("%w: state_dir %s belongs to node %q and node.hcl names %q: give each node a directory of its own", ErrSettings, d, r.Node, name)
	}
	return &r, nil
}

// public returns the identity that peers pin.
func (r *identityRecord) public() (mpc.NodeIdentity, error) { return mpc.ParseNodeIdentity(r.Identity) }

// suites for the key that seals the identity, in order of preference.
func identitySuites(allowSHA1 bool) []hsm.Suite {
	s := []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256}
	if allowSHA1 {
		s = append(s, hsm.SuiteRSA3072OAEPSHA1)
	}
	return s
}

// makeIdentity draws an identity and stores it. It is called with the change lock
// held and never where there is an identity.
func makeIdentity(ctx context.Context, d stateDir, s *Settings, token node.Token) (*identityRecord, error) {
	key, err := token.GenerateWrappingKey(ctx, pkcs11.KeyRequest{
		Domain: identityDomain, Version: 1, Label: "vault-mpc node " + s.Name, Suites: identitySuites(s.HSM.AllowSHA1),
	})
	if err != nil {
		return nil, fmt.Errorf("making the key that seals the node's identity: %w", err)
	}
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	plain := secret.New(seed)
	defer plain.Wipe()
	private := ed25519.NewKeyFromSeed(seed)
	defer secret.Wipe(private)
	r := &identityRecord{Version: stateVersion, Node: s.Name, Identity: mpc.NodeIdentity(private.Public().(ed25519.PublicKey)).String(),
		Key: identityKeyRecord{Suite: uint8(key.Suite), ID: key.ID, PublicKey: key.PublicKey, Label: key.Label}}
	if r.Envelope, err = hsm.Seal(identityContext(s.Name), plain, []hsm.WrappingKey{r.Key.key()}); err != nil {
		return nil, err
	}
	// Before it counts: what was sealed opens with this token.
	again, err := openIdentity(ctx, r, s.Name, token)
	if err != nil {
		return nil, fmt.Errorf("the identity that was just sealed does not open: %w", err)
	}
	secret.Wipe(again)
	return r, d.writeJSON(identityFile, r)
}

// openIdentity opens the seed with the token.
func openIdentity(ctx context.Context, r *identityRecord, name string, token node.Token) (ed25519.PrivateKey, error) {
	key := r.Key.key()
	if err := token.Bind(ctx, key); err != nil {
		return nil, fmt.Errorf("the key %q that seals this node's identity: %w", key.Label, err)
	}
	seed, _, err := hsm.Open(ctx, token, []hsm.WrappingKey{key}, identityContext(name), r.Envelope)
	if err != nil {
		return nil, fmt.Errorf("opening this node's identity: %w", err)
	}
	defer seed.Wipe()
	if seed.Len() != ed25519.SeedSize {
		return nil, errors.New("opening this node's identity: the seed has a wrong length")
	}
	private := ed25519.NewKeyFromSeed(seed.Expose())
	if want, err := r.public(); err != nil || !want.Equal(private.Public()) {
		secret.Wipe(private)
		return nil, errors.New("opening this node's identity: what is sealed in identity.json is not the identity that it names")
	}
	return private, nil
}
