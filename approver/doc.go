// Package approver is an approver's device: it makes the device key, keeps what was
// pinned when it was enrolled, opens requests, says what is to be shown of them, and
// signs what its person decides.
//
// It believes no server. A server that lies may refuse to show a request; it cannot
// have the device sign anything but what was shown: the statement is put together
// here, of the fields that were shown and of what is pinned (mount, approver, the
// account's public key), never of hashes that came over the wire. What cannot be
// checked here, who asks and under which name an account goes, is shown as the
// server's word.
//
// Border: no network, no terminal, no files. The caller supplies a Server that carries
// JSON, a Keyring that keeps 32 secret bytes, and stores the Device, which is public,
// wherever it keeps such things. A Device is used by one goroutine.
package approver
