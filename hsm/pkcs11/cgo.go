//go:build cgo

package pkcs11

// Available says whether this program can load PKCS#11 modules. Without cgo it
// cannot, and Open always fails.
const Available = true
