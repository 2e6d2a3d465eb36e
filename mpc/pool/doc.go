// Package pool runs MPC nodes and uses them: it starts local nodes as
// go-plugin subprocesses and keeps them alive, stays connected to nodes on other
// hosts, chooses which node serves which share (placement: by what a node has seen,
// by the token that a share is sealed to, by region, and by how near a node is),
// routes sealed protocol messages between them, and tries again with other nodes
// when one fails. It knows which presignatures the nodes
// hold in memory, and has nodes make, check and renew their auxiliary keys.
//
// Border: it holds ciphertext only. It opens no PKCS#11 library, sees no
// plaintext share and cannot read the messages it routes. Storage belongs to
// its user, who lends it a KeyStore and the Expose callback.
package pool
