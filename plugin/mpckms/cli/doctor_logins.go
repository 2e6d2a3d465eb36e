package cli

const areaIdentities = "identities"

// examineLogins looks at whether people can log in: the mount's identity keys are made
// with the first authenticator, and without them no login opens. Where they are sealed
// is told by the wrapping keys.
func (x *examination) examineLogins() {
	a := x.report.In(areaIdentities)
	x.said = nil
	found, err := x.list(x.ctx, "list authenticators", "authenticators")
	switch {
	case err != nil:
		skip(a, "logins", err)
		return
	case len(found.Keys) == 0:
		a.OK("logins", "no authenticators: nobody logs in to an identity here")
		return
	}
	keys, err := x.list(x.ctx, "list the wrapping keys", "wrapping-keys")
	if err != nil {
		skip(a, "logins", err)
		return
	}
	complete, sealed := true, false
	for _, version := range keys.Keys {
		var k wrappingKey
		if err := decodeInfo(keys.KeyInfo[version], &k); err != nil {
			a.Skip("logins", "what the list says about wrapping key "+version+" cannot be read")
			return
		}
		sealed = sealed || k.References.IdentityKeys > 0
		complete = complete && (k.References.Complete || k.State == "destroyed")
	}
	says := plural(len(found.Keys), "authenticator")
	switch {
	case sealed:
		a.OK("logins", says+", and the mount has its identity keys")
	case !complete:
		a.Skip("logins", says+"; the engine still counts what its wrapping keys hold")
	default:
		a.Problem("logins", says+", and the mount has no identity keys: nobody can log in",
			"Restore Vault's storage from a backup that has them; see Vault's log. Accounts without custody are not affected.")
	}
}
