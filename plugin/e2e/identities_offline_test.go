//go:build e2e

package e2e_test

import (
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestIdentityOffline: a bound device opens what it had while Vault is stopped,
// nobody else does with it, and it learns at its next contact that it was revoked.
func TestIdentityOffline(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.File})
	e := enable(t, v, "mpc", 3)
	ada, drawer, ben := acme(t, v, "off")
	for _, p := range []*person{ada, ben} {
		p.does(t, "device", "bind", "off", "--label", "test")
		p.refused(t, []string{"bound to identity", "already"}, "device", "bind", "off")
	}
	drawer.refused(t, []string{"not bound"}, "secret", "show", "off/dns", "--offline")

	v.Stop(t)
	ada.shows(t, "off/dns", "dns token", "--offline")
	ada.shows(t, "off/safe", "safe code", "--offline")
	ben.shows(t, "off/dns", "dns token", "--offline")
	ben.refused(t, []string{"no asset", "off/safe"}, "secret", "show", "off/safe", "--offline")
	ben.refused(t, []string{"connection refused"}, "secret", "show", "off/dns")
	ben.refused(t, []string{"connection refused"}, "device", "sync", "off")
	thief := *ada
	thief.secrets = []string{"--passphrase-file", writeFile(t, "not the password\n")}
	thief.refused(t, []string{"login failed"}, "secret", "show", "off/dns", "--offline")
	v.Restart(t)
	e.waitNodes(t, 3)

	drawer.put(t, "off/dns", "newer token")
	ben.shows(t, "off/dns", "dns token", "--offline") // as old as the last sync
	ben.does(t, "device", "sync", "off")
	ben.shows(t, "off/dns", "newer token", "--offline")

	// Revoked by the operator, by a loss, and by the loss of the grant.
	var devices struct {
		Devices []struct {
			Device string `json:"device"`
		} `json:"devices"`
	}
	ben.asks(t, &devices, "device", "list")
	if len(devices.Devices) != 1 {
		t.Fatalf("%+v", devices)
	}
	if _, err := v.Client.Logical().Delete("mpc/authenticators/off-ben/devices/" + devices.Devices[0].Device); err != nil {
		t.Fatal(err)
	}
	ben.refused(t, []string{"no longer bound", "revoked"}, "device", "sync", "off")
	ben.refused(t, []string{"not bound"}, "secret", "show", "off/dns", "--offline")

	ben.does(t, "device", "bind", "off")
	drawer.does(t, "identity", "revoke", "off", "off-ben")
	ben.refused(t, []string{"no longer bound"}, "device", "sync", "off")
	ben.refused(t, []string{"not bound"}, "secret", "show", "off/dns", "--offline")

	e.write(t, "authenticators/off-ada/lost", map[string]any{"reason": "stolen"})
	ada.refused(t, []string{"no longer bound", "reported lost"}, "device", "sync", "off")
	ada.refused(t, []string{"not bound"}, "secret", "show", "off/dns", "--offline")
}
