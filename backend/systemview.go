package backend

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// systemViewAge is how long what Vault said of itself is believed.
const systemViewAge = time.Second

// systemView remembers for a moment what the SDK asks Vault for on every single
// request: the replication state and whether the mount is local. For an
// external plugin each of them is a call back to Vault and costs half a
// millisecond. A mount never changes from local to replicated, and a server
// whose state changes mounts its backends anew; what could come of a second's
// delay is a write that Vault's storage refuses as read-only.
type systemView struct {
	logical.SystemView

	mu    sync.Mutex
	asked time.Time // on the monotonic clock
	state consts.ReplicationState
	local bool
}

// read asks Vault where the last answer is too old. The lock is not held while
// it does: two requests may ask at once.
func (v *systemView) read() (consts.ReplicationState, bool) {
	v.mu.Lock()
	state, local, asked := v.state, v.local, v.asked
	v.mu.Unlock()
	if !asked.IsZero() && time.Since(asked) < systemViewAge {
		return state, local
	}
	asked = time.Now()
	state, local = v.SystemView.ReplicationState(), v.SystemView.LocalMount()
	v.mu.Lock()
	defer v.mu.Unlock()
	if asked.After(v.asked) {
		v.state, v.local, v.asked = state, local, asked
	}
	return state, local
}

// ReplicationState implements logical.SystemView.
func (v *systemView) ReplicationState() consts.ReplicationState {
	state, _ := v.read()
	return state
}

// LocalMount implements logical.SystemView.
func (v *systemView) LocalMount() bool {
	_, local := v.read()
	return local
}
