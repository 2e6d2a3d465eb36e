package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// Engine is what the backend needs of the node pool; *pool.Pool satisfies it.
// Methods may be called concurrently and honour their context.
type Engine interface {
	// Apply starts or adjusts nodes to the settings; it returns without
	// waiting for them to be ready, and what it starts outlives ctx. The PIN
	// in the settings stays the caller's to wipe.
	Apply(ctx context.Context, s pool.Settings) error
	// Probe starts one throwaway node process that logs in to the token for
	// real. With create.Version > 0 it also makes that wrapping-key version in
	// the token (label carries mount ID and version). The PIN stays the
	// caller's to wipe.
	Probe(ctx context.Context, mountID [16]byte, token pool.Token, create pool.KeyRequest) (pool.TokenInfo, *hsm.WrappingKey, error)
	Create(ctx context.Context, r pool.CreateRequest) (*pool.KeyResult, error)
	Sign(ctx context.Context, r pool.SignRequest) (*pool.SignResult, error)
	Refresh(ctx context.Context, r pool.RefreshRequest) (*pool.KeyResult, error)
	// PrepareCustody chooses nodes for a signature or refresh with user custody,
	// has their exposures stored, and gets each one's key for the owner's release.
	PrepareCustody(ctx context.Context, r pool.CustodyRequest) (*pool.CustodyOffer, error)
	// RunCustody runs it, once, with what the owner released. A
	// *pool.CustodyLostError says that it has to be begun again; with any other
	// error no node was told anything.
	RunCustody(ctx context.Context, o *pool.CustodyOffer, releases map[mpc.Index][]byte) (*pool.CustodyResult, error)
	// OpenCheck lets the node that holds each share open it from the given
	// stored bytes; its error wraps pool.ErrShareUnusable when one does not
	// open, and only then.
	OpenCheck(ctx context.Context, a mpc.Account) error
	// Presign makes one presignature and keeps it in the memory of nodes,
	// which Sign then uses by itself.
	Presign(ctx context.Context, r pool.PresignRequest) error
	// Presignatures counts those that can be used now for the account in the
	// epoch with that record hash.
	Presignatures(id mpc.AccountID, recordHash [32]byte) int
	// ForgetPresignatures drops all of the account's.
	ForgetPresignatures(ctx context.Context, id mpc.AccountID)
	// RenewAuxiliary has a node replace its auxiliary keys; it returns without
	// waiting for them.
	RenewAuxiliary(nodeID string) error
	// MakeWrappingKey has one running node of the wrapping domain make that version
	// in its token and probe it, with the first of the suites that the token can
	// do. Nodes seal to it once Apply has told them about it.
	MakeWrappingKey(ctx context.Context, domain string, version uint32, suites []hsm.Suite) (*pool.MadeKey, error)
	// DestroyWrappingKey has one running node of the key's domain destroy both halves and look
	// again. hsm.ErrKeyNotFound says that there was nothing to destroy, which
	// is success to the caller.
	DestroyWrappingKey(ctx context.Context, key hsm.WrappingKey) error
	// FindWrappingKeys lists key objects in the domain's token under a label.
	FindWrappingKeys(ctx context.Context, domain, label string) ([]pool.KeyObject, error)
	// Rewrap has every share resealed to the newest wrapping-key version, by
	// nodes that may open it; the epoch stays. Its error wraps
	// pool.ErrShareUnusable when a share does not open, and only then.
	Rewrap(ctx context.Context, r pool.RewrapRequest) (*pool.RewrapResult, error)
	// RewrapNodeKeys reseals the own keys of the named node, running or not,
	// to the newest version and stores them.
	RewrapNodeKeys(ctx context.Context, nodeID string) error
	// Identity has one node make, use or reseal the mount's identity keys, which
	// are opened inside nodes only. *pool.RefusedError says that the request is
	// wrong in itself; otherwise another node is asked.
	Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error)
	// Import makes an account from recovery deals.
	Import(ctx context.Context, r pool.ImportRequest) (*pool.KeyResult, error)
	Nodes() []pool.NodeStatus
	Close(ctx context.Context) error
}

// EngineConfig is what a backend gives its engine.
type EngineConfig struct {
	Store  pool.KeyStore
	Logger hclog.Logger
	// OnPresignatureUsed is to be called when an account's stock has become
	// smaller. It does not block and may be called concurrently.
	OnPresignatureUsed func(mpc.AccountID)
	// OnPINRefused is to be called when the token has refused the PIN that was
	// accepted at that time (pool.Token.Accepted). It does not block and may be
	// called concurrently.
	OnPINRefused func(accepted time.Time, reason error)
}

// NewEngineFunc makes an engine that has no nodes yet. It starts nothing.
type NewEngineFunc func(EngineConfig) Engine

// closeTimeout bounds Clean: Vault waits no longer than a second for it.
const closeTimeout = 800 * time.Millisecond

// engine returns the engine with the stored settings applied. The first call
// after start or a change of settings applies them.
func (b *backend) engine(ctx context.Context) (Engine, error) {
	b.engMu.Lock()
	eng, applied := b.eng, b.applied
	b.engMu.Unlock()
	if eng != nil && applied {
		return eng, nil
	}
	return b.applySettings(ctx)
}

// unconfiguredEngine returns the engine for a probe, before there is anything
// to apply.
func (b *backend) unconfiguredEngine() (Engine, error) {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed {
		return nil, pool.ErrClosed
	}
	if b.eng == nil {
		eng := b.cfg.NewEngine(EngineConfig{Store: b.store, Logger: b.log.Named("pool"), OnPresignatureUsed: b.stock.used, OnPINRefused: b.pinRefused})
		b.eng = measured{eng, b.metrics}
	}
	return b.eng, nil
}

// runningEngine returns the engine if it has been started, else nil.
func (b *backend) runningEngine() Engine {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed {
		return nil
	}
	return b.eng
}

// dropEngine ends the engine when there is nothing left for it to work with. The
// next use makes another.
func (b *backend) dropEngine(ctx context.Context) error {
	b.engMu.Lock()
	eng := b.eng
	b.eng, b.applied = nil, false
	b.generation++
	b.engMu.Unlock()
	if eng == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	return eng.Close(ctx)
}

// settingsChanged makes the next use of the engine apply the settings anew.
func (b *backend) settingsChanged() {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	b.applied = false
	b.generation++
}

// applyChange applies settings that were just stored, if there is a token or a node
// on another host.
func (b *backend) applyChange(ctx context.Context) error {
	b.settingsChanged()
	ring, err := b.store.keyring(ctx)
	if err != nil || len(ring.domains) == 0 {
		return err
	}
	_, err = b.applySettings(ctx)
	return err
}

// applySettings loads the settings and applies them, one caller at a time.
func (b *backend) applySettings(ctx context.Context) (Engine, error) {
	select {
	case b.applyTurn <- struct{}{}:
		defer func() { <-b.applyTurn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for node settings to be applied: %w", ctx.Err())
	}
	eng, err := b.unconfiguredEngine()
	if err != nil {
		return nil, err
	}
	b.engMu.Lock()
	applied, generation := b.applied, b.generation
	b.engMu.Unlock()
	if applied { // the caller before us did it
		return eng, nil
	}
	settings, err := b.settings(ctx)
	if err != nil {
		return nil, err
	}
	defer wipeSettings(settings)
	if err := eng.Apply(ctx, *settings); err != nil {
		return nil, fmt.Errorf("starting nodes: %w", err)
	}
	b.engMu.Lock()
	defer b.engMu.Unlock()
	// Settings that changed in between are applied by the next caller.
	b.applied = b.generation == generation
	return eng, nil
}

// settings puts together what the pool needs from storage and the host's
// module list; pool.ErrNotConfigured while there is no node to run or to reach. The
// caller wipes what is secret in them.
func (b *backend) settings(ctx context.Context) (out *pool.Settings, err error) {
	conf, err := b.store.hsmConfig(ctx)
	if err != nil {
		return nil, err
	}
	members, err := b.membership(ctx)
	if err != nil {
		return nil, err
	}
	if len(members.remote) == 0 && (conf == nil || members.local == 0) {
		return nil, pool.ErrNotConfigured
	}
	mount, err := b.store.mount(ctx)
	if err != nil {
		return nil, err
	}
	if mount == nil {
		return nil, errors.New("the mount's identity is missing from storage: restore it from a backup")
	}
	s := &pool.Settings{
		MountID:         mount.ID,
		Local:           members.local,
		LocalRegion:     members.nodes.Region,
		SessionsPerNode: members.nodes.SessionsPerNode,
	}
	defer func() {
		if err != nil {
			wipeSettings(s)
		}
	}()
	if err := b.wrappingSettings(ctx, s, conf); err != nil {
		return nil, err
	}
	clocks, err := b.store.rotationConfig(ctx)
	if err != nil {
		return nil, err
	}
	s.AuxPeriod = time.Duration(clocks.AuxPeriod) * time.Second
	if members.local > 0 {
		if s.Token, err = b.tokenSettings(ctx, conf); err != nil {
			return nil, err
		}
	}
	if err := b.remoteSettings(ctx, s, members); err != nil {
		return nil, err
	}
	anchor, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, err
	}
	if s.Authority, err = anchor.authority(); err != nil {
		return nil, err
	}
	s.Recipients, _, err = b.setInForce(ctx)
	return s, err
}

// wipeSettings ends what is secret in them.
func wipeSettings(s *pool.Settings) {
	s.Token.PIN.Wipe()
	s.Client.Key.Wipe()
}

// wrappingSettings adds the wrapping keys. A mount without a token of its own has
// none before its first node has made one.
func (b *backend) wrappingSettings(ctx context.Context, s *pool.Settings, conf *hsmRecord) error {
	serial := ""
	if conf != nil {
		serial = conf.Token.Serial
	}
	keys, said, err := b.store.wrappingKeys(ctx, serial)
	if err != nil {
		return err
	}
	if s.Local > 0 && newestOf(keys, hsm.DefaultDomain) == nil {
		return fmt.Errorf("%w: no wrapping key of token %s is in storage, write config/hsm again", pool.ErrWrappingKey, serial)
	}
	s.WrappingKeys, s.Endorsements = keys, said
	return nil
}

// tokenSettings is how local nodes use the token.
func (b *backend) tokenSettings(ctx context.Context, conf *hsmRecord) (pool.Token, error) {
	list, err := modules.Parse(b.cfg.Modules)
	if err != nil {
		return pool.Token{}, fmt.Errorf("%w: %w", pool.ErrModule, err)
	}
	if _, ok := list[conf.Module]; !ok {
		return pool.Token{}, fmt.Errorf("%w: %s is no longer on the host's list (%s)", pool.ErrModule, conf.Module, modules.Variable)
	}
	why, err := b.store.pinRefusal(ctx, conf)
	if err != nil {
		return pool.Token{}, err
	}
	token := conf.poolToken()
	if why != nil {
		token.Refused = why.err()
	}
	return token, nil
}

// remoteSettings adds the nodes on other hosts, and how this mount shows itself to
// them.
func (b *backend) remoteSettings(ctx context.Context, s *pool.Settings, members *membership) (err error) {
	if len(members.remote) == 0 {
		return nil
	}
	if s.Remote, err = members.poolNodes(); err != nil {
		return err
	}
	own, err := b.store.coordinator(ctx)
	if err != nil {
		return err
	}
	if own == nil {
		return errors.New("the certificate that nodes on other hosts know this mount by is missing from storage: restore it from a backup, or write config/coordinator and enrol them again")
	}
	s.Client = own.client()
	return nil
}
