// Package backend is the Vault side of the engine: paths, storage, account
// life cycle, and when nodes are asked to do what.
//
// Border: the only package besides the executables that imports vault/sdk. It
// opens no PKCS#11 library and never holds a plaintext share; nodes do, and it
// reaches them through Engine. Every storage key and record is in storage.go,
// every translation of an error into an answer in errors.go.
//
// Locks. An account's record is changed under its stripe of accountLocks, held
// for storage calls only and never while the engine works: what was read
// before such a call is read again and compared after it. Names under way
// (creation, refresh, rewrap, versions of the wrapping key) are reserved in
// memory by busySet.
//
// Background. rotation.Runner refreshes and rewraps accounts, presigner keeps
// presignatures, keeper makes and destroys versions of the wrapping key: one
// goroutine each, started on the active server and ended by Clean. What refers
// to which version is counted in memory (references.go) and read again before a
// version is destroyed.
//
// Repeated requests. The answer to a request with a request_id is stored before
// it is given, and deleted a day later (request_id.go, signed_expiry.go). Which
// ones are stored is remembered, so that a new request_id costs one write and no
// read (signed_index.go).
//
// Logins. People log in without a Vault token (login.go) and get a session
// (sessions.go), through which they call what their authenticator opens
// (session_call.go, session_rules.go). What is between two steps, sessions and counts
// of attempts are in the memory of the active server; locks are stored behind the
// answer (login_locks.go). A name that does not exist is answered like one that does
// (login_fakes.go).
//
// Caches. Signing in steady state reads nothing from Vault: accounts, exposures
// and config/nodes are kept as decoded (cache.go). Writers, and whoever decides
// about what is written, read storage itself.
package backend
