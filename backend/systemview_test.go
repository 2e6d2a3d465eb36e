package backend

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// countingView counts how often Vault is asked.
type countingView struct {
	logical.StaticSystemView
	asked atomic.Int32
}

func (v *countingView) ReplicationState() consts.ReplicationState {
	v.asked.Add(1)
	return v.ReplicationStateVal
}

// TestSystemView: Vault is asked once a second at most, and what it says then
// counts.
func TestSystemView(t *testing.T) {
	vault := &countingView{}
	vault.ReplicationStateVal, vault.LocalMountVal = consts.ReplicationPerformanceStandby, true
	v := &systemView{SystemView: vault}
	for range 50 {
		if v.ReplicationState() != consts.ReplicationPerformanceStandby || !v.LocalMount() {
			t.Fatal("another answer than Vault's")
		}
	}
	if n := vault.asked.Load(); n != 1 {
		t.Errorf("Vault was asked %d times", n)
	}
	vault.ReplicationStateVal, vault.LocalMountVal = consts.ReplicationPerformancePrimary, false
	v.mu.Lock()
	v.asked = time.Now().Add(-systemViewAge)
	v.mu.Unlock()
	if v.ReplicationState() != consts.ReplicationPerformancePrimary || v.LocalMount() {
		t.Error("an old answer is believed")
	}
}
