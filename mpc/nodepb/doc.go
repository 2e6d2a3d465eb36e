// Package nodepb is the wire definition of an MPC node: node.proto and the code
// generated from it.
//
// Border: generated code and nothing else. What the messages mean is decided
// in mpc/node (the server) and mpc/pool (the client). Regenerate with
// `make proto`.
package nodepb
