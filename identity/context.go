package identity

// The contexts of everything that is sealed, wrapped or signed. Each begins with
// a label of its own and names what the ciphertext belongs to, so that no record
// can be put in another's place.

const (
	labelManifest   = "mpc identity manifest v1"
	labelSuccession = "mpc identity owner succession v1"
	labelIdentityID = "mpc identity id v1"
	labelRoleSeed   = "mpc identity role seed v1"
	labelPastSeed   = "mpc identity past role seed v1"
	labelAsset      = "mpc identity asset v1"
	labelAssetKey   = "mpc identity asset key v1"
	labelAssetValue = "mpc identity asset value v1"
	labelAuthSeed   = "mpc identity authenticator seed v1"
	labelAuthRecord = "mpc identity authenticator record v1"
	labelServerPart = "mpc identity server part v1"
	labelBinding    = "mpc identity device binding key v1"
	labelBoundRole  = "mpc identity device role seed v1"

	labelFingerprint = "mpc identity authenticator fingerprint v1"
)

// ManifestContext is what a manifest is signed in: fields(label, identity).
func ManifestContext(identity ID) Context { return fields([]byte(labelManifest), identity[:]) }

// SuccessionContext is what the owner role's next keys are signed in:
// fields(label, identity, generation of the new keys as 8 bytes).
func SuccessionContext(identity ID, generation uint64) Context {
	return fields([]byte(labelSuccession), identity[:], number(generation))
}

// RoleSeedContext is what a role seed is sealed to an authenticator in:
// fields(label, identity, role, generation of the role as 8 bytes, authenticator).
func RoleSeedContext(identity ID, role string, generation uint64, authenticator ID) Context {
	return fields([]byte(labelRoleSeed), identity[:], []byte(role), number(generation), authenticator[:])
}

// PastSeedContext is what a role's seed of an earlier generation is sealed to the
// role's present keys in: fields(label, identity, role, its generation, present
// generation).
func PastSeedContext(identity ID, role string, past, present uint64) Context {
	return fields([]byte(labelPastSeed), identity[:], []byte(role), number(past), number(present))
}

// AssetContext is what an asset is signed in: fields(label, identity, asset).
func AssetContext(identity, asset ID) Context {
	return fields([]byte(labelAsset), identity[:], asset[:])
}

// AssetKeyContext is what the key of an asset key's value is sealed to a role in:
// fields(label, identity, asset, key name, generation of the key, role, generation
// of the role).
func AssetKeyContext(identity, asset ID, key string, generation uint64, role string, roleGeneration uint64) Context {
	return fields([]byte(labelAssetKey), identity[:], asset[:], []byte(key), number(generation), []byte(role), number(roleGeneration))
}

// AssetValueContext is what the value is encrypted in: fields(label, identity,
// asset, key name, generation of the key).
func AssetValueContext(identity, asset ID, key string, generation uint64) Context {
	return fields([]byte(labelAssetValue), identity[:], asset[:], []byte(key), number(generation))
}

// AuthenticatorSeedContext is what an authenticator's seed is wrapped in:
// fields(label, authenticator).
func AuthenticatorSeedContext(authenticator ID) Context {
	return fields([]byte(labelAuthSeed), authenticator[:])
}

// AuthenticatorContext is what an authenticator's record is signed in by itself:
// fields(label, authenticator).
func AuthenticatorContext(authenticator ID) Context {
	return fields([]byte(labelAuthRecord), authenticator[:])
}

// ServerPartContext is what the part of an authenticator that the server keeps is
// wrapped in, and sealed to a client in: fields(label, authenticator).
func ServerPartContext(authenticator ID) Context {
	return fields([]byte(labelServerPart), authenticator[:])
}

// BindingContext is what a device's binding key is wrapped in: fields(label,
// identity, authenticator, device).
func BindingContext(identity, authenticator, device ID) Context {
	return fields([]byte(labelBinding), identity[:], authenticator[:], device[:])
}

// BoundRoleContext is what a role seed is wrapped in on a device: fields(label,
// identity, authenticator, device, role, generation of the role).
func BoundRoleContext(identity, authenticator, device ID, role string, generation uint64) Context {
	return fields([]byte(labelBoundRole), identity[:], authenticator[:], device[:], []byte(role), number(generation))
}
