// Package cli is the mpckms command line: commands, output and error texts.
//
// Border: it turns arguments into requests to one mount of the engine through
// Vault's HTTP API, and answers into text. It decides nothing about policy, and
// knows the engine only by its documented paths and fields, so it may be older or
// newer than the server. Besides the caller's Vault token it holds key material
// in two places only: in the commands of the authority and of recovery custodians,
// which work offline on files (package recovery) and never with a server; and in
// those of identities, where somebody logs in with an authenticator (package
// keyholder) for the time of one command. Custody keys are used here for what the
// caller asked for, and never leave.
//
// Streams: answers go to stdout, everything else (errors, warnings, progress)
// to stderr. With -o json stdout carries one JSON document, or nothing when
// the command fails; status, doctor, sign-batch, and recovery export of all
// accounts, are exceptions and print their documents always. A bar of progress is
// drawn on stderr where that is a terminal; elsewhere progress is lines.
//
// Exit codes: 0 done; 1 the server or the network refused, or the answer was
// "no" (an invalid signature, an untrusted file, an engine that is not ready); 2 wrong usage or
// wrong local settings, and nothing was sent.
package cli
