package eip712

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/crypto/sha3"
)

// hashStruct is keccak256(typeHash ‖ encodeData). The value must have every
// member of the type and no other.
func (s structs) hashStruct(def *definition, v any) (hash [32]byte, err error) {
	object, ok := v.(map[string]any)
	if !ok {
		return hash, wrong("must be an object of type %s", def.name)
	}
	typeHash := def.typeHash()
	k := sha3.NewLegacyKeccak256()
	k.Write(typeHash[:])
	for _, m := range def.members {
		v, ok := object[m.name]
		if !ok {
			return hash, in(m.name, wrong("is missing"))
		}
		word, err := s.encode(m.typ, v)
		if err != nil {
			return hash, in(m.name, err)
		}
		k.Write(word[:])
	}
	if len(object) != len(def.members) {
		names := make([]string, len(def.members))
		for i, m := range def.members {
			names[i] = m.name
		}
		return hash, exactly(object, names...)
	}
	return [32]byte(k.Sum(nil)), nil
}

// encode returns the 32 bytes that stand for a value.
func (s structs) encode(t typ, v any) (word [32]byte, err error) {
	if n := len(t.arrays); n > 0 {
		length := t.arrays[n-1]
		t.arrays = t.arrays[:n-1]
		return s.encodeArray(t, length, v)
	}
	switch t.kind {
	case kindStruct:
		return s.hashStruct(t.struc, v)
	case kindBool:
		b, ok := v.(bool)
		if !ok {
			return word, wrong("must be true or false")
		}
		if b {
			word[31] = 1
		}
		return word, nil
	case kindUint, kindInt:
		return encodeInteger(t, v)
	}
	text, ok := v.(string)
	if !ok {
		return word, wrong("must be a string")
	}
	if t.kind == kindString {
		return keccak256([]byte(text)), nil
	}
	digits, prefixed := strings.CutPrefix(text, "0x")
	b, err := hex.DecodeString(digits)
	if !prefixed || err != nil {
		return word, wrong("must be 0x and an even number of hex digits")
	}
	switch t.kind {
	case kindBytes:
		return keccak256(b), nil
	case kindBytesN:
		if len(b) != t.size {
			return word, wrong("must have %d bytes, not %d", t.size, len(b))
		}
		copy(word[:], b)
		return word, nil
	case kindAddress:
		if len(b) != 20 {
			return word, wrong("must be an address: 0x and 40 hex digits")
		}
		if !checksummed(digits) {
			return word, wrong("is an address whose capitals do not fit (EIP-55): one of its digits is wrong, or write all in small letters")
		}
		copy(word[12:], b)
		return word, nil
	}
	return word, wrong("has a type that cannot be encoded")
}

// encodeArray is keccak256 of the elements' encodings; length 0 stands for any.
func (s structs) encodeArray(element typ, length int, v any) (hash [32]byte, err error) {
	list, ok := v.([]any)
	if !ok {
		return hash, wrong("must be a list")
	}
	if length > 0 && len(list) != length {
		return hash, wrong("must have %d elements, not %d", length, len(list))
	}
	k := sha3.NewLegacyKeccak256()
	for i, v := range list {
		word, err := s.encode(element, v)
		if err != nil {
			return hash, in("["+strconv.Itoa(i)+"]", err)
		}
		k.Write(word[:])
	}
	return [32]byte(k.Sum(nil)), nil
}

// encodeInteger is the number in two's complement, 256 bits, big-endian. It is
// read exactly, from a JSON number or from a string, decimal or, if it is not
// negative, as 0x and hex digits.
func encodeInteger(t typ, v any) (word [32]byte, err error) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return word, wrong("must be a whole number, or a string with one in decimal or 0x and hex digits")
	}
	n, ok := integer(text)
	if !ok {
		return word, wrong("is not a whole number of at most 256 bits, in decimal without leading zeros or 0x and hex digits")
	}
	if _, bare := v.(json.Number); bare && n.CmpAbs(big.NewInt(maxBareNumber)) > 0 {
		return word, wrong("is a number beyond 2^53 - 1, which wallets and browsers round: write it as a string")
	}
	// uint: 0 ≤ n < 2^size. int: −2^(size−1) ≤ n < 2^(size−1); ^n = −n−1.
	bits := t.size
	magnitude := n
	if t.kind == kindInt {
		bits--
		if n.Sign() < 0 {
			magnitude = new(big.Int).Not(n)
		}
	}
	if magnitude.Sign() < 0 || magnitude.BitLen() > bits {
		return word, wrong("is out of the range of its type")
	}
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), 256))
	}
	n.FillBytes(word[:])
	return word, nil
}

// integer reads a whole number of a bounded length.
func integer(text string) (*big.Int, bool) {
	if digits, ok := strings.CutPrefix(text, "0x"); ok {
		// big.Int takes signs and underscores.
		if len(digits) < 1 || len(digits) > 64 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
			return nil, false
		}
		return new(big.Int).SetString(digits, 16)
	}
	digits := strings.TrimPrefix(text, "-")
	if len(digits) < 1 || len(digits) > 78 || strings.Trim(digits, "0123456789") != "" {
		return nil, false
	}
	if digits[0] == '0' && text != "0" { // 007 and -0
		return nil, false
	}
	return new(big.Int).SetString(text, 10)
}

// checksummed reports whether the 40 hex digits of an address are written as
// EIP-55 wants it, or in one case only, which has no checksum.
func checksummed(digits string) bool {
	lower := strings.ToLower(digits)
	if digits == lower || digits == strings.ToUpper(digits) {
		return true
	}
	hash := keccak256([]byte(lower))
	for i := range len(digits) {
		nibble := hash[i/2] >> 4
		if i%2 == 1 {
			nibble = hash[i/2] & 15
		}
		c := digits[i]
		if c > '9' && (c < 'a') != (nibble >= 8) {
			return false
		}
	}
	return true
}
