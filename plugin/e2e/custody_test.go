//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/secret"
)

// TestCustody is user custody from beginning to end on the real Vault and token: a
// client program of the owner's own makes accounts of every algorithm that sign with
// his custody key only, refreshes them and replaces that key; the token's key alone
// opens nothing, and is exchanged without him.
func TestCustody(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 4})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 4)
	e.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "retire_after": "2s"})
	k := newKeeper(t, e, "carol")
	accounts := map[string]string{"custody-ed25519": ed25519, "custody-bip340": bip340, "custody-k1": "ecdsa-secp256k1", "custody-p256": "ecdsa-p256"}
	keys := map[string]any{}
	for name, algorithm := range accounts {
		keys[name] = k.account(t, name, algorithm, 2, 3)["public_key_hex"]
	}
	e.waitAuxiliary(t)
	for name, algorithm := range accounts {
		k.signs(t, name, algorithm, []byte("with the owner"))
		d := k.refreshes(t, name)
		if number(t, d["share_epoch"]) != 2 || d["public_key_hex"] != keys[name] {
			t.Errorf("%s after its refresh: epoch %v, key %v", name, d["share_epoch"], d["public_key_hex"])
		}
		k.signs(t, name, algorithm, []byte("after the refresh"))
	}
	t.Run("nobody else", func(t *testing.T) { nobodyElseSigns(t, k) })
	t.Run("frozen", func(t *testing.T) { frozenDoesNothing(t, k) })
	t.Run("a node dies", func(t *testing.T) { beginsAgain(t, k) })
	t.Run("the token alone", func(t *testing.T) { tokenAlone(t, k, v) })
	t.Run("another custody key", func(t *testing.T) { replaced(t, k, keys) })
	t.Run("another wrapping key", func(t *testing.T) { rewrapped(t, k, accounts) })
}

// nobodyElseSigns: not Vault's root, and nobody with what the owner released for
// something else.
func nobodyElseSigns(t *testing.T, k *keeper) {
	e := k.e
	const account = "custody-ed25519"
	e.refuse(t, "sign/"+account, map[string]any{"input": b64([]byte("x"))}, http.StatusConflict, "custody")
	e.refuse(t, "accounts/"+account+"/refresh", nil, http.StatusConflict, "custody")
	e.refuse(t, "accounts/"+account+"/csr", map[string]any{"common_name": "x"}, http.StatusConflict, "custody")
	key := k.key(t, account, identity.CustodyKey)
	one, other := k.begin(t, account, rawMessage(ed25519, []byte("one"))), k.begin(t, account, rawMessage(ed25519, []byte("another")))
	swapped := other.finishing(t, key)
	swapped["releases"] = one.finishing(t, key)["releases"]
	_, err := e.Client.Logical().Write(e.path+"/custody/"+account+"/finish", swapped)
	// Where the nodes are the same ones these refuse, else the engine does.
	if !answers(err, http.StatusConflict) && !answers(err, http.StatusBadRequest) {
		t.Errorf("releases of another message: %v", err)
	}
	good := one.finishing(t, key)
	e.check(t, account, []byte("one"), e.write(t, "custody/"+account+"/finish", good))
	e.refuse(t, "custody/"+account+"/finish", good, http.StatusConflict, "begin again")

	// The owner's client releases nothing to nodes that it does not know.
	stranger := k.begin(t, account, rawMessage(ed25519, []byte("one")))
	stranger.approval.Pinned = func(mpc.NodeIdentity) bool { return false }
	if _, err := stranger.approval.Release(key); !errors.Is(err, custody.ErrUnpinned) {
		t.Errorf("nodes that are not pinned: %v", err)
	}
}

func frozenDoesNothing(t *testing.T, k *keeper) {
	e := k.e
	const account = "custody-bip340"
	key := k.key(t, account, identity.CustodyKey)
	begun := k.begin(t, account, rawMessage(bip340, []byte("held up"))).finishing(t, key)
	e.write(t, "identities/"+k.name+"/freeze", map[string]any{"reason": "lost"})
	e.refuse(t, "custody/"+account+"/finish", begun, http.StatusConflict, "frozen")
	e.refuse(t, "custody/"+account+"/begin", map[string]any{"operation": "sign", "input": b64([]byte("x"))}, http.StatusConflict, "frozen")
	e.refuse(t, "custody/"+account+"/begin", map[string]any{"operation": "refresh"}, http.StatusConflict, "frozen")
	e.write(t, "identities/"+k.name+"/unfreeze", nil)
	e.write(t, "accounts/"+account+"/freeze", nil)
	e.refuse(t, "custody/"+account+"/finish", begun, http.StatusConflict, "frozen")
	e.write(t, "accounts/"+account+"/unfreeze", nil)
	e.check(t, account, []byte("held up"), e.write(t, "custody/"+account+"/finish", begun))
}

// beginsAgain: a node of the operation dies, another takes its place.
func beginsAgain(t *testing.T, k *keeper) {
	e := k.e
	const account = "custody-ed25519"
	key := k.key(t, account, identity.CustodyKey)
	begun := k.begin(t, account, rawMessage(ed25519, []byte("interrupted")))
	victim := begun.approval.Offers[0].Node.String()
	for id, n := range e.nodes(t) {
		if n["identity"] == victim {
			pid := number(t, n["pid"])
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			e.await(t, 20*time.Second, "another process of "+id, func() bool {
				now := e.nodes(t)[id]
				return now["state"] == "ready" && number(t, now["pid"]) != pid
			})
		}
	}
	e.refuse(t, "custody/"+account+"/finish", begun.finishing(t, key), http.StatusConflict, "begin again")
	k.signs(t, account, ed25519, []byte("begun again"))
}

// storedAccount is what a thief of storage has.
type storedAccount struct {
	Current struct {
		Record []byte   `json:"record"`
		Shares [][]byte `json:"shares"`
	} `json:"current"`
}

// tokenAlone opens the stored shares with the real token, as a thief who has both,
// with and without the custody key.
func tokenAlone(t *testing.T, k *keeper, v *e2e.Vault) {
	var stored storedAccount
	var wrapping struct {
		KeyVersion uint32 `json:"key_version"`
		Domain     string `json:"domain"`
		Suite      string `json:"suite"`
		ID         []byte `json:"id"`
		PublicKey  []byte `json:"public_key"`
		Label      string `json:"label"`
	}
	const account = "custody-ed25519"
	for key, into := range map[string]any{"accounts/" + account: &stored, "wrapping-keys/1": &wrapping} {
		if err := json.Unmarshal(v.RawRead(t, "mpc", key), into); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	suite, err := hsm.ParseSuite(wrapping.Suite)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", v.Token.Conf)
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: v.Token.Module, Label: v.Token.Label, PIN: secret.Copy([]byte(v.Token.PIN))})
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	key := hsm.WrappingKey{Domain: wrapping.Domain, Version: wrapping.KeyVersion, Suite: suite, ID: wrapping.ID, PublicKey: wrapping.PublicKey, Label: wrapping.Label}
	if err := token.Bind(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	record, err := mpc.ParsePublicRecord(stored.Current.Record)
	if err != nil {
		t.Fatal(err)
	}
	owner := k.key(t, account, identity.CustodyKey)
	all := []hsm.WrappingKey{key}
	var parts []*secret.Bytes
	for i, envelope := range stored.Current.Shares {
		c := hsm.ShareContext(uint8(i+1), record.Hash())
		k2, err := hsm.OpenCustodySeal(owner, c, envelope)
		if err != nil {
			t.Fatalf("the owner opens his part of share %d: %v", i+1, err)
		}
		parts = append(parts, k2)
		share, _, err := hsm.OpenWith(t.Context(), token, all, c, envelope, k2)
		if err != nil {
			t.Fatalf("token and owner together open share %d: %v", i+1, err)
		}
		share.Wipe()
	}
	for i, envelope := range stored.Current.Shares {
		c := hsm.ShareContext(uint8(i+1), record.Hash())
		if _, _, err := hsm.Open(t.Context(), token, all, c, envelope); !errors.Is(err, hsm.ErrNeedsCustodyKey) {
			t.Errorf("the token alone: %v", err)
		}
		for what, k2 := range map[string]*secret.Bytes{"a guess": secret.New(make([]byte, 32)), "another share's part": parts[(i+1)%len(parts)]} {
			if share, _, err := hsm.OpenWith(t.Context(), token, all, c, envelope, k2); err == nil {
				t.Errorf("share %d opens with %s", i+1, what)
				share.Wipe()
			}
		}
		parsed, err := hsm.ParseEnvelope(envelope)
		if err != nil {
			t.Fatal(err)
		}
		parsed.Holders = parsed.Holders[:1]
		bare, err := parsed.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := hsm.Open(t.Context(), token, all, c, bare); !errors.Is(err, hsm.ErrOpen) {
			t.Errorf("without its custody part: %v", err)
		}
	}
}

// replaced gives an account another custody key, as a reset does, and shows that
// the one before opens nothing any more.
func replaced(t *testing.T, k *keeper, keys map[string]any) {
	e := k.e
	const account = "custody-k1"
	lost := k.key(t, account, identity.CustodyKey)
	s, err := k.opened.ReplaceCustody(k.asset(t, account), time.Now(), newCustody)
	k.store(t, account, s, err)
	if d := e.read(t, "accounts/"+account); d["custody_pending"] != true {
		t.Errorf("a custody key waits: %v", d["custody_pending"])
	}
	k.signs(t, account, "ecdsa-secp256k1", []byte("with the present key"))
	d := k.refreshes(t, account)
	next := k.asset(t, account).Key(identity.NextCustodyKey).Public
	if c := d["custody"].(map[string]any); c["public_key"] != b64(next) || d["custody_pending"] != false || d["public_key_hex"] != keys[account] {
		t.Errorf("after the replacement: %v", d)
	}
	s, err = k.opened.PromoteCustody(k.asset(t, account), time.Now())
	k.store(t, account, s, err)
	k.signs(t, account, "ecdsa-secp256k1", []byte("with the new key"))
	begun := k.begin(t, account, rawMessage("ecdsa-secp256k1", []byte("with the lost key")))
	if _, err := begun.approval.Release(lost); err == nil {
		t.Error("the lost key releases something")
	}
	hash := begun.approval.Record.Hash()
	for i, envelope := range begun.approval.Envelopes {
		if _, err := hsm.OpenCustodySeal(lost, hsm.ShareContext(uint8(i), hash), envelope); err == nil {
			t.Errorf("the lost key opens its part of share %d", i)
		}
	}
}

// rewrapped: the wrapping key is exchanged and the old version destroyed while the
// owner is away; what he began before stays good.
func rewrapped(t *testing.T, k *keeper, accounts map[string]string) {
	e := k.e
	const account = "custody-ed25519"
	begun := k.begin(t, account, rawMessage(ed25519, []byte("over the rotation"))).finishing(t, k.key(t, account, identity.CustodyKey))
	before := map[string]any{}
	for name := range accounts {
		before[name] = e.read(t, "accounts/"+name)["epoch_id"]
	}
	e.write(t, "wrapping-keys/rotate", nil)
	e.await(t, 90*time.Second, "the end of version 1", func() bool { return e.read(t, "wrapping-keys/1")["state"] == "destroyed" })
	for name, algorithm := range accounts {
		d := e.read(t, "accounts/"+name)
		if number(t, d["wrapping_version"]) != 2 || d["epoch_id"] != before[name] || d["last_refresh_error"] != "" {
			t.Errorf("%s: version %v, the same epoch %v, %v", name, d["wrapping_version"], d["epoch_id"] == before[name], d["last_refresh_error"])
		}
		if name != account {
			k.signs(t, name, algorithm, []byte("resealed"))
		}
	}
	e.check(t, account, []byte("over the rotation"), e.write(t, "custody/"+account+"/finish", begun))
	d := k.refreshes(t, account)
	if fmt.Sprint(d["refresh_due"]) != "false" {
		t.Errorf("due right after a refresh: %v", d)
	}
	if bytes.Contains(e.Log(t), []byte("is not refreshed")) {
		t.Error("the log complains about accounts that their owners refresh")
	}
}
