// Package e2e is the harness of the end-to-end suite, and the suite's tests
// are its tests: a real Vault process, the built plugin registered by its
// SHA-256, a fresh SoftHSM token, the real vault command line. Everything but
// this file has the build tag e2e; `make e2e` builds what is needed and sets
// the environment that Main names.
//
// Border: it knows Vault and processes, not the engine. It links none of our
// packages, so that it sees what a user sees. It needs Linux (/proc).
package e2e
