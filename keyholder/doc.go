// Package keyholder is the client's side of identities: it registers
// authenticators, logs in with them and talks to the engine inside the session
// that a login opens. Everything secret is done here; the server gets ciphertext,
// public keys and OPAQUE's messages.
//
//	Register   makes an authenticator: Source ─▶ OPAQUE ─▶ export key ─▶ its seed
//	Login      opens one again and yields a Session
//	Session    is a Caller whose requests travel sealed; Open gives an identity
//	Source     is how one method gets its information: password, key file,
//	           certificate, device, third party, phone, passkey
//	           (with the page of its own that the browser opens)
//	Home       is the folder of one user of one mount: pins, known
//	           authenticators, bindings of this device
//
// Border: it needs a Caller (the mount's API, whoever sends it), a Prompter (a
// person, or files that stand in for one) and, for keys in tokens, a
// CertificateKey; it links no cgo, knows no Vault and parses no command line.
// The cryptography is in package identity.
package keyholder
