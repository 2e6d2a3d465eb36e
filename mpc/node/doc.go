// Package node is an MPC node: it opens wrapped shares with its own PKCS#11
// session, runs its side of protocol sessions and makes its own auxiliary keys.
// It is the only place where a plaintext share exists outside the token's
// protection, and only for as long as a session needs it.
//
// Border: it serves nodepb and nothing else. It keeps nothing on disk, talks to
// no other node except through sealed session messages, and does not decide
// who signs what; it refuses what contradicts its pinned peers and keys, and what
// the approvers that an account's record names have not approved.
package node
