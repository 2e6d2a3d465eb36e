package hsm

// WrappingKey pins one version of a wrapping key: the public facts that let a
// node find the key pair in its token and be sure it is the right one.
type WrappingKey struct {
	// Domain names the token or cluster that holds the private key; local
	// nodes share DefaultDomain.
	Domain  string
	Version uint32 // from 1
	Suite   Suite
	// ID is the CKA_ID, 16 random bytes.
	ID []byte
	// PublicKey is the uncompressed point 04‖X‖Y, 65 bytes (hpke-p256).
	PublicKey []byte
	// Label is the CKA_LABEL; for people, nothing is found by it.
	Label string
}

// DefaultDomain is the wrapping domain of local nodes.
const DefaultDomain = "default"
