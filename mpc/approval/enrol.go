package approval

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Enrolment of a device. The operator, or the approver from another device, opens an
// enrolment, which has a secret of its own; the device makes its keys and sends the
// public halves with the device key's signature over EnrolMessage. Then device and
// server each compute EnrolCode, and whoever confirms the enrolment compares the two.

// EnrolMessage is what the new device key signs, with SHA-256: mount, enrolment,
// approver and all keys. It shows that the device has the key.
func EnrolMessage(mount [16]byte, enrolment, approver ID, keys []Key) []byte {
	var w writer
	w.text("vault-plugin-secrets-mpc approval enrolment v1")
	w.bytes(mount[:])
	w.bytes(enrolment[:])
	w.bytes(approver[:])
	ids := make([]ID, len(keys))
	for i := range keys {
		ids[i] = keys[i].ID()
	}
	slices.SortFunc(ids, func(a, b ID) int { return slices.Compare(a[:], b[:]) })
	w.number(uint64(len(ids)))
	for _, id := range ids {
		w.bytes(id[:])
	}
	return w
}

// EnrolCode is the short code, eight digits in two groups, that people compare: of
// SHA-256 over EnrolMessage the first 8 bytes, modulo 10⁸. It tells one device from
// another that was enrolled in its place by somebody who got hold of the secret. It
// does not protect from a hostile server, which could try keys until the code fits:
// against that, approvers compare the keys' full IDs in the policy that they approve.
func EnrolCode(mount [16]byte, enrolment, approver ID, keys []Key) string {
	sum := sha256.Sum256(append([]byte("code"), EnrolMessage(mount, enrolment, approver, keys)...))
	n := binary.BigEndian.Uint64(sum[:8]) % 100_000_000
	return fmt.Sprintf("%04d-%04d", n/10_000, n%10_000)
}
