package backend

import (
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// checkRecipientSeals demands that share i is sealed to the i-th recipient of a
// signed set, or to none where signed is empty, and to nobody else outside the
// mount's tokens; envelopesOf looks at those. Without this a single node that leaves the recipient out would
// be noticed by the export, when the HSM is lost. That the seal opens only the
// recipient can tell.
func checkRecipientSeals(envelopes [][]byte, signed []byte) error {
	var set *recovery.RecipientSet
	if len(signed) > 0 {
		parsed, err := recovery.ParseSignedSet(signed)
		if err != nil {
			return err
		}
		// It was verified when it was put in force, and by the nodes. One that names
		// wrapping domains only has no recipients.
		if set = parsed.Unverified(); len(set.Recipients) == 0 {
			set = nil
		}
	}
	for k, e := range envelopes {
		seals, err := hsm.Seals(e)
		if err != nil {
			return fmt.Errorf("share %d: %w", k+1, err)
		}
		seals = slices.DeleteFunc(seals, func(s hsm.SealedKey) bool { return isWrappingDomain(s.Domain) })
		if set == nil {
			if len(seals) > 0 {
				return fmt.Errorf("nodes sealed share %d to %q, and the account has no recipients", k+1, seals[0].Domain)
			}
			continue
		}
		want, err := set.ForShare(mpc.Index(k + 1))
		if err != nil {
			return err
		}
		if len(seals) != 1 || seals[0].Domain != want.Domain || seals[0].Version != want.Version || seals[0].Suite != want.Suite {
			return fmt.Errorf("nodes did not seal share %d to its recovery recipient %s alone", k+1, set.Recipients[k].Name)
		}
	}
	return nil
}
