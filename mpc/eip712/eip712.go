// Package eip712 computes the digest of Ethereum typed data (EIP-712) from the
// JSON that wallets take for eth_signTypedData_v4:
//
//	{"types": {"EIP712Domain": […], …}, "primaryType": …, "domain": {…}, "message": {…}}
//
// It runs inside nodes, on input that nobody has looked at, and what it accepts
// must mean one thing only: whoever approved the text and every node have to
// arrive at the same digest. So it refuses what implementations read in
// different ways (duplicate keys, missing, surplus and null members, types
// without EIP712Domain, numbers with a fraction, an exponent or more than a
// float64 holds, bytes of another length than their type's, type names with a $,
// wrongly checksummed addresses, text that is not Unicode). Its work is bounded by the constants below and
// grows with the input's length, not faster.
//
// Why not go-ethereum's signer/core/apitypes (v1.17.10): 98 kB of JSON with
// types that refer to one another in a chain were not done after three minutes;
// it keeps the last of duplicate keys; and it reads JSON numbers as float64, so
// that 9007199254740993 is hashed as ...992. The tests compare with ethers and
// eth-sig-util, which are independent of each other.
//
// The page on which people approve has a mirror of this package (ui/src/json.js and
// eip712.js). Whatever is taken or refused here has to be there, too: tests of
// plugin/e2e compare the two.
//
// Border: pure functions over bytes, safe for concurrent use. Errors name the
// place in the document and never repeat its values.
package eip712

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/sha3"
)

// Bounds on a document. They are far above what contracts can take, and keep a
// digest of the largest input within a fraction of a second.
const (
	// MaxSize is the greatest length of the JSON in bytes.
	MaxSize = 512 << 10
	// maxValues bounds the values in it, objects and lists included. However short
	// it is, each takes some hundred bytes of memory while a digest is made, and
	// the coordinator and t nodes each make as many digests at once as they are
	// asked for.
	maxValues = 10_000
	// maxBareNumber is the largest whole number that JavaScript reads exactly
	// (ECMA-262, Number.MAX_SAFE_INTEGER); larger ones have to be strings.
	maxBareNumber = 1<<53 - 1
	// maxDepth bounds the nesting of JSON objects and arrays, and so the
	// recursion over values.
	maxDepth = 64
	// maxTypes and maxTypesSize bound the definitions and the total length of
	// their names, so the product bounds the text hashed for type hashes.
	maxTypes     = 128
	maxTypesSize = 64 << 10
	// maxIdentifier and maxTypeName bound single names, in bytes.
	maxIdentifier = 128
	maxTypeName   = 256
)

// domainType is the struct that says which application a message is for.
const domainType = "EIP712Domain"

// domainMembers are those that EIP-712 knows, with their types. Every domain
// has one or more of them.
var domainMembers = map[string]string{
	"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address", "salt": "bytes32",
}

// domainOrder is the order that EIP-712 has them in. eth-sig-util hashes them as
// they are written and ethers always in this order, so no other one is taken.
func domainOrder() []string {
	return []string{"name", "version", "chainId", "verifyingContract", "salt"}
}

// Digest returns what is signed for a document:
//
//	keccak256(0x19 0x01 ‖ hashStruct(domain) ‖ hashStruct(message))
func Digest(document []byte) ([32]byte, error) {
	domain, message, err := hashes(document)
	if err != nil {
		return [32]byte{}, fmt.Errorf("EIP-712: %w", err)
	}
	return keccak256([]byte{0x19, 0x01}, domain[:], message[:]), nil
}

// hashes returns the domain separator and the hash of the message.
func hashes(document []byte) (domain, message [32]byte, err error) {
	top, err := parse(document)
	if err != nil {
		return domain, message, err
	}
	if err := exactly(top, "types", "primaryType", "domain", "message"); err != nil {
		return domain, message, err
	}
	s, err := parseTypes(top["types"])
	if err != nil {
		return domain, message, in("types", err)
	}
	primary, ok := top["primaryType"].(string)
	switch {
	case !ok:
		return domain, message, in("primaryType", wrong("must be a string"))
	case primary == domainType:
		// Some implementations sign the domain alone then, others twice.
		return domain, message, in("primaryType", wrong("must be the message's type, not %s", domainType))
	case s[primary] == nil:
		return domain, message, in("primaryType", wrong("is not among types"))
	}
	if err := s.checkDomain(); err != nil {
		return domain, message, in("types", in(domainType, err))
	}
	if domain, err = s.hashStruct(s[domainType], top["domain"]); err != nil {
		return domain, message, in("domain", err)
	}
	if message, err = s.hashStruct(s[primary], top["message"]); err != nil {
		return domain, message, in("message", err)
	}
	return domain, message, nil
}

// checkDomain checks the definition of EIP712Domain. A name that this package
// does not know might be one that a person has to be warned about.
func (s structs) checkDomain() error {
	def := s[domainType]
	if def == nil {
		return wrong("is missing: define it with the members that domain has")
	}
	last := 0
	for _, m := range def.members {
		want, ok := domainMembers[m.name]
		if !ok {
			return in(m.name, wrong("is not a member of a domain: name, version, chainId, verifyingContract and salt are"))
		}
		if m.text != want {
			return in(m.name, wrong("must have the type %s", want))
		}
		place := slices.Index(domainOrder(), m.name)
		if place < last {
			return in(m.name, wrong("is out of order: the order is name, version, chainId, verifyingContract, salt"))
		}
		last = place
	}
	return nil
}

// exactly checks that an object has these keys and no others.
func exactly(object map[string]any, keys ...string) error {
	for _, k := range keys {
		if _, ok := object[k]; !ok {
			return in(k, wrong("is missing"))
		}
	}
	if len(object) == len(keys) {
		return nil
	}
	var surplus []string
	for k := range object {
		if !slices.Contains(keys, k) {
			surplus = append(surplus, k)
		}
	}
	return in(slices.Min(surplus), wrong("is not expected here"))
}

func keccak256(parts ...[]byte) [32]byte {
	k := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		k.Write(p)
	}
	return [32]byte(k.Sum(nil))
}
