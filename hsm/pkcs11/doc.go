// Package pkcs11 holds wrapping keys in a PKCS#11 token (v2.40) and does ECDH
// with them: a Token is the hsm.KeyExchanger of a node process.
//
// A Token keeps one login for its life and a bounded pool of sessions. Every
// call into the module runs in a goroutine of its own that owns its session, so
// a module that hangs costs the caller its deadline and no more. A process that
// keeps getting hsm.ErrUnavailable should be replaced: modules often recover in
// a new process only.
//
// Border: P-256 wrapping keys only (make, find, check, derive, destroy).
// Envelopes are hsm's business, where the PIN comes from and when to restart is
// the node's. The module is initialised once per process and never finalised,
// because other users of the same library in the process would lose their
// sessions; SoftHSM therefore sees a token made later only in a new process.
// One Token per process is the intended use.
//
// What the token says about its keys (SENSITIVE, NEVER_EXTRACTABLE) is its own
// word. The derived secret passes through this process's memory, and whoever
// has the PIN can derive.
//
// The package needs cgo. Without it everything compiles and Open returns
// ErrModule.
package pkcs11
