// Package pkcs11 holds wrapping keys in a PKCS#11 token (v2.40) and uses them
// there, by ECDH or RSA-OAEP: a Token is the hsm.PrivateKeys of a node process.
//
// A Token keeps one login for its life and a bounded pool of sessions. Every
// call into the module runs in a goroutine of its own that owns its session, so
// a module that hangs costs the caller its deadline and no more. Lost sessions,
// logins and handles are replaced without a failed call where the module allows
// it. A token that is away is hsm.ErrUnavailable, whatever the module says about
// the keys meanwhile: that a key is missing or was destroyed is reported only
// after the token itself was seen to be there. A process that keeps getting
// ErrUnavailable should be replaced: modules often recover in a new process
// only, and with hsm.ErrNewProcess that is certain.
//
// Border: wrapping keys only (make, find, check, use, destroy, list). Envelopes
// are hsm's business, where the PIN comes from and when to restart is the
// node's. The raw layer (miekg/pkcs11) starts the module once per process and
// never finalises it, because other users of the same library in the process
// would lose their sessions; crypto11, through which RSA keys decrypt where it
// can be had, finalises a module it started when its last Token is closed.
// SoftHSM sees a token that is made while it is started only in a new process.
// One Token per process is the intended use.
//
// What the token says about its keys (SENSITIVE, NEVER_EXTRACTABLE) is its own
// word. What is derived or decrypted passes through this process's memory, in
// part through buffers of the C binding that are freed without being wiped, and
// whoever has the PIN can do the same.
//
// The package needs cgo. Without it everything compiles and Open returns
// ErrModule.
package pkcs11
