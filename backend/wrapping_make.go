package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// keyMaker makes the keys of one version, a domain after the other. The caller has
// reserved the wrapping keys.
type keyMaker struct {
	b        *backend
	eng      Engine
	ring     *keyring
	mount    *mountRecord
	version  uint32
	label    string
	made     []hsm.WrappingKey
	warnings []string
}

func (b *backend) keyMaker(ctx context.Context, ring *keyring, version uint32) (*keyMaker, error) {
	mount, err := b.needMount(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range ring.domains { // before a node is asked
		if _, err := ring.suites(d); err != nil {
			return nil, err
		}
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	return &keyMaker{b: b, eng: eng, ring: ring, mount: mount, version: version, label: wrappingLabel(mount.IDHex, version)}, nil
}

// make has a node of the domain make its key. What is in the token under the same
// name is reported and stays.
func (m *keyMaker) make(ctx context.Context, domain string) (*domainKeyRecord, error) {
	where := "the token"
	if domain != hsm.DefaultDomain {
		where = fmt.Sprintf("the token of domain %q", domain)
	}
	suites, err := m.ring.suites(domain)
	if err != nil {
		return nil, err
	}
	if strays, err := m.eng.FindWrappingKeys(ctx, domain, m.label); err != nil {
		return nil, fmt.Errorf("looking for keys of that name in %s: %w", where, err)
	} else if len(strays) > 0 {
		m.warnings = append(m.warnings, fmt.Sprintf("%s holds %d other key(s) labelled %q, from an attempt that was interrupted or from another cluster that shares the token: they are not used and stay; destroy/%s lists them", where, len(strays), m.label, wrappingKeysName))
		m.b.log.Warn("there are other wrapping keys of this name in the token; they are not used and stay", "domain", domain, "label", m.label, "keys", len(strays))
	}
	made, err := m.eng.MakeWrappingKey(ctx, domain, m.version, suites)
	if err == nil {
		err = checkMade(made, m.mount.ID, domain, m.version, suites)
	}
	if err != nil && domain != hsm.DefaultDomain {
		err = fmt.Errorf("wrapping domain %q: %w", domain, err)
	}
	if err != nil {
		return nil, err
	}
	m.made = append(m.made, made.Key)
	part := &domainKeyRecord{Domain: domain, Suite: made.Key.Suite.String(), ID: made.Key.ID, PublicKey: made.Key.PublicKey,
		Label: m.label, Created: m.b.cfg.now().UTC()}
	for _, n := range m.eng.Nodes() {
		if n.Remote && domainOf(n) == domain && n.Token.Serial != "" {
			part.TokenLabel, part.TokenSerial = n.Token.Label, n.Token.Serial
		}
	}
	if domain == hsm.DefaultDomain && m.ring.configured {
		part.TokenSerial = m.ring.serial
	}
	if e := made.Endorsement; len(e.Signature) > 0 {
		part.Endorsement = &keyEndorsementRecord{Identity: e.Identity.String(), Signature: e.Signature}
	}
	return part, nil
}

// undo destroys the keys that were made for a version that will not be: another
// domain's could not be made. It is this call that made them, and nothing that is
// stored names them. What cannot be destroyed is a stray.
func (m *keyMaker) undo(ctx context.Context) {
	for _, key := range m.made {
		if err := m.eng.DestroyWrappingKey(ctx, key); err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
			m.b.log.Warn("a wrapping key that was made for nothing stays in the token; it is not used", "domain", key.Domain, "label", key.Label, "error", err)
		}
	}
	m.made = nil
}

// checkMade verifies that a node made what it was asked for, and that its word for
// it is one.
func checkMade(made *pool.MadeKey, mountID [16]byte, domain string, version uint32, suites []hsm.Suite) error {
	if made == nil {
		return errors.New("a node was asked for a wrapping key and none came back")
	}
	key, e := &made.Key, &made.Endorsement
	switch {
	case key.Version != version || key.Domain != domain:
		return fmt.Errorf("a node made version %d of domain %q instead of %d of %q", key.Version, key.Domain, version, domain)
	case !slices.Contains(suites, key.Suite):
		return fmt.Errorf("a node made a key for %s, and it was asked for %s", key.Suite, suites[0])
	}
	if err := key.Check(); err != nil {
		return err
	}
	if len(e.Signature) == 0 { // a node of a version that endorses nothing
		return nil
	}
	if e.Identity == (mpc.NodeIdentity{}) || !hsm.VerifyKeyEndorsement(e.Identity[:], mountID, *key, e.Signature) {
		return errors.New("a node's endorsement of the key that it made is not by its identity")
	}
	return nil
}

// label is what the version's keys are called in their tokens.
func (r *wrappingRecord) label() string {
	for _, d := range r.parts() {
		return d.Label
	}
	return ""
}
