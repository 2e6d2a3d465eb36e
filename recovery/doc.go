// Package recovery holds what people need to rebuild accounts when an HSM or a
// Vault is lost: who may (a RecipientSet, signed by the mount's authority), what
// of (a Bundle, exported from a mount), where to (a Target, a mount that the
// authority vouches for), and how (a Deal, by which one custodian deals his
// share anew to the target's nodes). The key itself is not put together in any
// of these steps.
//
// Everything here is JSON that can be printed, kept and compared by people; what
// is signed is signed as the bytes that were read.
//
// Border: formats, signatures and the sealing of sub-shares, in pure Go. It
// reads no files, asks no Vault and knows no token: nodes, backend and command
// line bring these. The mathematics is in mpc/frost.
package recovery
