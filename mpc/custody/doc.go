// Package custody lets the owner of an account's custody key take part in one
// operation of its shares, and in that one only.
//
// Every share of such an account is sealed with two keys: k₁, which the token
// opens, and k₂, which the custody key opens. A release hands k₂ of one share to
// the node that is to use it:
//
//	node   ─ Offer ─▶  owner   a fresh X25519 key for one purpose, signed by the node's identity
//	owner  ─ release ─▶ node   k₂, sealed to that key for that purpose
//
// The Purpose is everything that the owner agrees to: operation, public record
// (so account, epoch and custody key), message, the approval policy that a refresh
// is to bring, and all nodes that take part with their shares. Both ends compute its hash from what they themselves know: the
// owner's client from what its user asked for, the node from the session that it
// is to join. A node uses an offer's key once and drops it after OfferLifetime. So
// whoever carries offers and releases can withhold them and do nothing else: a
// release for another message, other signers, another epoch or another node does
// not open.
//
// What it does not do: a node that has been given k₂ could keep it until the next
// refresh. The shares' other key stays with the token.
//
// Border: pure values and cryptography, the same code in nodes, coordinator and
// the owner's client. No I/O, no clock (now is an argument), no token, no Vault.
// Which nodes are real is for the caller to know: see Approval.Pinned.
package custody
