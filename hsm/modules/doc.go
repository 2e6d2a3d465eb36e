// Package modules reads the host's own list of PKCS#11 modules: which libraries
// may be loaded on this host, how they are started, and whether the host
// provides the token's PIN.
//
// The list is an environment variable of the process (Variable), because a
// module is code that runs here: whoever operates the host decides about it,
// and what the API carries is a name out of this list, never a path.
//
// Border: pure Go; it reads the list and, when asked, a PIN file. It loads
// nothing and does not look whether a library exists. Which token of a module
// is used and whether its PIN is right is hsm/pkcs11's business.
package modules
