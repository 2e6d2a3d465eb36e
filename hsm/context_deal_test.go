package hsm_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
)

// TestRecordDealContext: the encoding, which files of custodians depend on, and that
// no deal of an account opens as one of another record, share or target.
func TestRecordDealContext(t *testing.T) {
	record, target := [32]byte{0xaa}, [32]byte{31: 7}
	c := hsm.RecordDealContext(record, target, 3, 4)
	want := "00000021" + hex.EncodeToString([]byte("mpc hsm context deal of record v1")) +
		"00000020" + "aa" + strings.Repeat("00", 31) + "00000020" + strings.Repeat("00", 31) + "07" + "00000001" + "03" + "00000001" + "04"
	if got := hex.EncodeToString(c); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, other := range map[string]hsm.Context{
		"another record":   hsm.RecordDealContext([32]byte{0xab}, target, 3, 4),
		"another target":   hsm.RecordDealContext(record, record, 3, 4),
		"another dealer":   hsm.RecordDealContext(record, target, 4, 4),
		"another receiver": hsm.RecordDealContext(record, target, 3, 3),
		"without a record": hsm.DealContext([16]byte(record[:16]), target, 3, 4),
	} {
		if bytes.Equal(c, other) {
			t.Errorf("the context of %s is the same", name)
		}
	}
}
