package approval

// Check verifies that it is a key of its kind, with bounds that every policy takes.
func (k *Key) Check() error { return k.check() }

// VerifyEnrol checks a key's own signature over the EnrolMessage that it is offered
// with: r‖s, 64 bytes, of a device key; DER (ECDSA) or PKCS#1 v1.5 (RSA) of a
// certificate's; SHA-256 in either case. A passkey proves itself by its registration,
// so for one it is always false.
func (k *Key) VerifyEnrol(message, signature []byte) bool {
	public, err := k.parse()
	if err != nil {
		return false
	}
	switch k.Kind {
	case Device:
		return verifyRaw(public, message, signature)
	case Certificate:
		return verifyMessage(public, message, signature)
	}
	return false
}
