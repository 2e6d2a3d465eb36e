// Package client calls the engine from Go: accounts, signatures, verification,
// addresses and lifecycle, with typed requests, answers and errors.
//
// New takes a github.com/hashicorp/vault/api client and a mount:
//
//	vault, err := api.NewClient(api.DefaultConfig()) // VAULT_ADDR, VAULT_TOKEN, …
//	…
//	mpc := client.New(vault, "mpc")
//	sig, err := mpc.Sign(ctx, "payments", client.SignRequest{Input: message, RequestID: client.NewRequestID()})
//
// # Border
//
// Address, TLS, token, namespace, time limit and repetitions are the api.Client's
// and stay the caller's to set; this package has no settings of its own and keeps
// no state. It knows the engine by its documented paths and fields only, imports
// nothing of the server, and needs no cgo. It holds no key material: keys exist as
// shares on the nodes, and every answer here is public.
//
// # Encodings
//
// Bytes are []byte: base64 and hex are taken off. Public keys have the engine's
// encoding: 33 bytes SEC 1 compressed (ECDSA), 32 bytes x-only (BIP-340) or 32
// bytes as in RFC 8032 (Ed25519), and there is PEM (SubjectPublicKeyInfo) beside
// them. Times are UTC with whole seconds or finer, zero for "never". Counters that
// may grow without end are uint64.
//
// # Errors
//
// What Vault or the engine refused is an *Error with the HTTP status and the texts
// as they were sent; errors.Is tells the kinds apart (ErrNotFound, ErrConflict, …).
// Anything else, such as a network that is down or a context that ended, keeps its
// cause for errors.Is and errors.As.
//
// # Repetitions and request_id
//
// An api.Client repeats a request by itself, twice by default (VAULT_MAX_RETRIES,
// SetMaxRetries), after network errors, 412, 429 and 5xx. A signature whose answer
// was lost on the way is then made again: harmless by itself, but another signature
// with ECDSA and BIP-340, and another piece of work for the nodes. With a RequestID
// the engine keeps the answer for 24 hours and gives the same one to whoever asks
// for the same thing under the same ID again: a repetition by the library, by the
// caller after a crash, or by another server after a failover. Choose one RequestID
// per thing to be signed, best from something the application stores anyway (an
// order number), or NewRequestID, and store it before Sign is called. Another input
// under an ID that was used is refused with ErrConflict.
//
// # Approvals
//
// An account with an approval policy signs what people have approved. Sign then
// returns no signature but a *PendingError with the Request; RequestWait waits for the
// signature, and Request reads it later, also from another process. With a RequestID
// the same Sign finds the same request again. A crypto.Signer of such an account fails
// with ErrPending.
//
// All functions and methods may be called concurrently.
package client
