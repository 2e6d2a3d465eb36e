// Package cmp makes ECDSA signatures on secp256k1 and P-256 with the CGGMP
// protocol ("CMP" in multi-party-sig), whole or in two parts with a presignature
// in between, and the auxiliary keys that it needs.
//
// Auxiliary keys (a Paillier key, ring-Pedersen parameters on the same modulus
// and one ElGamal key per curve) take seconds to make and belong to a node, not
// to an account: whoever knows the Paillier keys of two signers can learn the
// other's share, so they must never follow a share index. A node's life with
// them has four steps:
//
//  1. Generate makes an AuxSecret and a signed AuxPublic with its proofs.
//  2. Every peer checks AuxPublic.Verify once.
//  3. For every ordered pair, ProveFactors and VerifyFactors, because this
//     proof uses the verifier's own Pedersen parameters.
//  4. SignReceipt keeps the result over a restart; VerifyReceipt takes the
//     place of steps 2 and 3.
//
// An AuxPublic remembers what was checked about it. ProveFactors and NewSign
// refuse a peer's keys that were not: proving against unchecked Pedersen
// parameters can leak the prover's secrets.
//
// The library's mod and prm proofs have 80 binary challenges. Made without the
// verifiers' help, as here, they take 2^80 work to forge, not 2^128; their
// context binds them to one owner and generation. The factor proof has one
// 256-bit challenge.
//
// Presignatures: PresignParty does all the work that needs no digest, some
// seconds of it; OnlineParty makes a signature from the result in about a
// millisecond. A Presignature serves one signature, by the signers and for the
// public record it was made with. Three rules are the caller's: it offers
// digests that it hashed itself only, it compares Presignature.Public with its
// peers', and it bounds how long a presignature lives.
//
// The library's protocol to find out who spoiled a presignature makes honest
// parties open their nonces, and one of its two branches panics. PresignParty
// notices first and ends the session; it names the culprit where there are two
// signers or a proof is false.
//
// Border: it turns shares, auxiliary keys and digests into an mpc.Party. It
// does no I/O, does not wrap secrets and does not know who may sign what. It is
// the only importer of the library's CMP, Paillier and proof packages. Every
// library object is made for one session or one check, since the library
// mutates some and races when they are shared; its worker pool is never used,
// since a panic in it cannot be recovered.
package cmp
