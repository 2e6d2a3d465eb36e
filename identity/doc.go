// Package identity is the key hierarchy behind digital identities: what a client
// computes so that a server which stores every record can open none of them.
//
//	authentication information (+ personal information)
//	    ──OPAQUE (RFC 9807)──▶ export key ──▶ authenticator KEK
//	authenticator KEK   opens the authenticator seed   (Authenticator.Wrapped)
//	authenticator seed  opens role seeds of its level  (Grant.Sealed)
//	role seed           opens asset keys               (AssetKey.Sealed)
//	asset key           is    a secret, or the custody key of an account
//
// A seed is 32 random bytes from which two key pairs are derived: an HPKE pair
// that others seal to and an Ed25519 pair that signs. An identity is one signed
// Manifest: roles, access levels, and grants, which say which authenticator has
// which level. It is signed by the owner role, whose first keys give the identity
// its ID, so that a server can neither change it nor pass off another one. Assets
// are signed by a role that may use them.
//
// What a server can still do to a client: show an older state, or a made-up one,
// to a client that has no Pin or AssetPin of it; show keys of its own as those of
// somebody whom the user wants to grant something (compare Fingerprint); and,
// together with whoever holds a role or its past keys, show assets that this role
// could write, since only an honest server asks whether an asset Follows the one
// before it. It can also refuse everything.
//
// Border: pure computation on bytes, shared by the backend and the CLI. It does
// no I/O, knows no Vault and no PKCS#11 token, and links no cgo. Times come from
// the caller. Every decoder is bounded and strict.
package identity
