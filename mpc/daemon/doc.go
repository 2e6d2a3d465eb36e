// Package daemon runs one MPC node on a host of its own: `node serve`. It reads
// node.hcl, opens the host's token with the host's PIN, listens with mutual TLS,
// takes one coordinator that the host's operator let in (enrolment), and gives
// each attachment of that coordinator a fresh mpc/node. What has to outlive it is
// in the state directory: the node's identity, sealed by a key in the token; its
// TLS key; who was enrolled; and the floor, below which no account is worked with.
//
// Border: it decides who may speak to the node and keeps what the host has
// pinned; what a session may do is mpc/node's business. The token is opened by
// whoever wires the process. It knows nothing of Vault.
package daemon
