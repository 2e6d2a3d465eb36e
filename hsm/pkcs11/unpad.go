//go:build cgo

package pkcs11

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// unpadOAEP removes the padding EME-OAEP (RFC 8017, 7.1.2, step 3) with SHA-256,
// MGF1 with SHA-256 and the empty label from what the bare RSA operation gave; k is
// the length of the modulus. Tokens may strip leading zeros. Every failure is the
// same hsm.ErrOpen, and takes the same time as far as what is compared is secret.
func unpadOAEP(padded []byte, k int) (*secret.Bytes, error) {
	const h = sha256.Size
	if k < 2*h+2 || len(padded) > k {
		return nil, hsm.ErrOpen
	}
	em := make([]byte, k) // 00 ‖ masked seed (h) ‖ masked DB
	defer secret.Wipe(em)
	copy(em[k-len(padded):], padded)
	seed, db := em[1:1+h], em[1+h:]
	mask(seed, db)
	mask(db, seed)
	empty := sha256.Sum256(nil)
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:h], empty[:])
	// DB = hash ‖ zeros ‖ 01 ‖ message.
	looking, start := 1, 0
	for i := h; i < len(db); i++ {
		one := subtle.ConstantTimeByteEq(db[i], 1)
		zero := subtle.ConstantTimeByteEq(db[i], 0)
		start = subtle.ConstantTimeSelect(looking&one, i+1, start)
		good &= subtle.ConstantTimeSelect(looking, one|zero, 1)
		looking &= 1 ^ one
	}
	if good&(1^looking) != 1 {
		return nil, hsm.ErrOpen
	}
	return secret.Copy(db[start:]), nil
}

// mask is MGF1 with SHA-256 (RFC 8017, B.2.1): out is XORed with the mask of from.
func mask(out, from []byte) {
	var counter [4]byte
	for done := 0; done < len(out); done += sha256.Size {
		block := sha256.New()
		block.Write(from)
		block.Write(counter[:])
		sum := block.Sum(nil)
		subtle.XORBytes(out[done:], out[done:], sum[:min(len(sum), len(out)-done)])
		binary.BigEndian.PutUint32(counter[:], binary.BigEndian.Uint32(counter[:])+1)
	}
}
