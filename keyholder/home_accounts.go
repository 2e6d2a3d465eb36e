package keyholder

import (
	"fmt"
	"path/filepath"

	"vault-plugin-secrets-mpc/identity"
)

// homeAccounts has the accounts with custody that were used here, by name.
const homeAccounts = "accounts.json"

// AccountPin is which account a name stands for: without it a server could have
// one account of its user sign what was meant for another.
type AccountPin struct {
	ID        string `json:"id"`         // 32 hex digits
	PublicKey string `json:"public_key"` // hex, as the account's record has it
}

// SeenAccount compares an account with what was seen under its name before, and
// remembers it where there was nothing, or where it is to be replaced. Error:
// identity.ErrRolledBack.
func (h *Home) SeenAccount(name string, seen AccountPin, replace bool) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(h.dir, homeAccounts)
	pins := map[string]AccountPin{}
	if _, err := readJSON(path, &pins); err != nil {
		return err
	}
	switch before, ok := pins[name]; {
	case ok && before == seen:
		return nil
	case ok && !replace:
		return fmt.Errorf("account %q is another one than before: it had the ID %s and the public key %s: %w", name, before.ID, before.PublicKey, identity.ErrRolledBack)
	}
	pins[name] = seen
	return writeJSON(path, pins)
}
