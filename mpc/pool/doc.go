// Package pool runs MPC nodes and uses them: it starts local nodes as
// go-plugin subprocesses and keeps them alive, chooses which node serves which
// share (placement), routes sealed protocol messages between them, and tries
// again with other nodes when one fails. It knows which presignatures the nodes
// hold in memory, and has nodes make, check and renew their auxiliary keys.
//
// Border: it holds ciphertext only. It opens no PKCS#11 library, sees no
// plaintext share and cannot read the messages it routes. Storage belongs to
// its user, who lends it a KeyStore and the Expose callback.
package pool
