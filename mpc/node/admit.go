package node

import (
	"context"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// What the host of a remote node has to say before anything is done with an
// account: its operator's switches, and what the node remembers of the account.
// Nothing of this applies to a local node.

// More operations, as Switches spells them; those of sessions are in terms.go.
const (
	opRewrap = "rewrap"
	opImport = "import"
	opLogin  = "login"
	// opOpen and opRelease are parts of others: a look at a stored share, and the
	// offer to a custody key's owner.
	opOpen    = "open"
	opRelease = "release"
)

// admit refuses an operation with an account that the host does not allow, or
// whose record the floor refuses. It changes nothing: no share vouches for the
// record yet.
func (n *Node) admit(operation string, record *mpc.PublicRecord) error {
	if n.cfg.Host == nil {
		return nil
	}
	if err := n.allows(operation, record); err != nil {
		return err
	}
	return n.checkFloor(record)
}

// allows asks the switches alone, for an account that is being made as well.
func (n *Node) allows(operation string, record *mpc.PublicRecord) error {
	if n.cfg.Host == nil {
		return nil
	}
	if err := n.serves(operation); err != nil {
		return err
	}
	s := n.cfg.Host.Switches
	if len(s.Algorithms) > 0 && !slices.Contains(s.Algorithms, record.Algorithm) {
		return fmt.Errorf("%w: account %s is of algorithm %q; to allow it, this host's operator adds it to the algorithms under switches in node.hcl", ErrSwitchedOff, record.AccountID, record.Algorithm)
	}
	if s.RequirePolicy && record.PolicyHash == mpc.EmptySetHash() {
		return fmt.Errorf("%w: account %s demands no approvals, and this node serves only accounts that do (require_policy in its host's node.hcl)", ErrSwitchedOff, record.AccountID)
	}
	return nil
}

// serves asks whether an operation is switched on.
func (n *Node) serves(operation string) error {
	if n.cfg.Host == nil || len(n.cfg.Host.Switches.Operations) == 0 {
		return nil
	}
	allowed := n.cfg.Host.Switches.Operations
	switch operation {
	case opOpen:
		return nil // it releases nothing and is part of most others
	case opRelease:
		if slices.Contains(allowed, opSign) || slices.Contains(allowed, opRefresh) {
			return nil
		}
	}
	if slices.Contains(allowed, operation) {
		return nil
	}
	return fmt.Errorf("%w: the operation %q; to allow it, this host's operator adds it to the operations under switches in node.hcl", ErrSwitchedOff, operation)
}

// spread refuses a plan that gives one wrapping domain as many shares as sign,
// where the host demands that: whoever broke that domain's token would have the
// key. Every member is bound to the same plan and seals to its own part of it.
func (n *Node) spread(members []*nodepb.Member, threshold int) error {
	if n.cfg.Host == nil || !n.cfg.Host.Switches.RequireSpread {
		return nil
	}
	shares := map[string]int{}
	for _, m := range members {
		domain := m.GetDomain()
		if domain == "" {
			return fmt.Errorf("%w: it is not said which wrapping domain share %d goes to, and this node makes only shares that are spread over domains (require_spread in its host's node.hcl)", ErrSwitchedOff, m.GetIndex())
		}
		if shares[domain]++; shares[domain] >= threshold {
			return fmt.Errorf("%w: wrapping domain %q would get %d shares, and %d sign (require_spread in this host's node.hcl): use more domains, or a higher threshold", ErrSwitchedOff, domain, shares[domain], threshold)
		}
	}
	return nil
}

// checkFloor asks the floor about a record without changing it.
func (n *Node) checkFloor(record *mpc.PublicRecord) error {
	if n.cfg.Host == nil || n.cfg.Host.Floor == nil {
		return nil
	}
	return floorAdvice(record, n.cfg.Host.Floor.Check(record))
}

// inForce raises the floor to a record whose share is about to be used, after it
// has seen that the share is that record's. A record that no share belongs to
// would otherwise put the floor where the account never comes.
func (n *Node) inForce(ctx context.Context, record *mpc.PublicRecord, self mpc.Index, share *secret.Bytes) error {
	if n.cfg.Host == nil || n.cfg.Host.Floor == nil {
		return nil
	}
	if err := frost.CheckShare(record, self, share); err != nil {
		return err
	}
	return n.raiseFloor(ctx, record)
}

func (n *Node) raiseFloor(ctx context.Context, record *mpc.PublicRecord) error {
	if n.cfg.Host == nil || n.cfg.Host.Floor == nil {
		return nil
	}
	return floorAdvice(record, n.cfg.Host.Floor.Raise(ctx, record))
}

func floorAdvice(record *mpc.PublicRecord, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("account %s, share epoch %d: %w; nothing was signed or opened. If Vault was restored from a backup, this host's operator can lower the floor: vault-plugin-secrets-mpc node floor lower %s --epoch %d --config node.hcl", record.AccountID, record.Epoch, err, record.AccountID, record.Epoch)
}

// failed translates an error of a call for the coordinator, and counts it.
func (n *Node) failed(call string, err error) *nodepb.Failure {
	f := failure(err)
	if n.cfg.Observer != nil {
		n.cfg.Observer.Failed(call, f.GetReason())
	}
	return f
}
