package cli

import (
	"encoding/hex"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// openedDoc is the JSON document of `device show`, and with an outcome that of
// `device approve` and `device refuse`.
type openedDoc struct {
	Request       string            `json:"request"`
	Action        approval.Action   `json:"action"`
	Account       string            `json:"account"`
	AccountID     string            `json:"account_id"`
	AccountKnown  bool              `json:"account_known"`
	PublicKey     string            `json:"public_key"`
	Algorithm     string            `json:"algorithm"`
	MessageType   string            `json:"message_type,omitempty"`
	MessageKind   string            `json:"message_kind,omitempty"`
	Text          string            `json:"text,omitempty"`
	Fields        []approverField   `json:"fields,omitempty"`
	Hex           string            `json:"hex,omitempty"`
	Size          int               `json:"size,omitempty"`
	Cut           bool              `json:"cut,omitempty"`
	MessageSHA256 string            `json:"message_sha256,omitempty"`
	Hash          string            `json:"hash_algorithm,omitempty"`
	Digest        string            `json:"digest,omitempty"`
	Path          string            `json:"derivation_path,omitempty"`
	TaprootTweak  string            `json:"taproot_tweak,omitempty"`
	Requester     string            `json:"requester"`
	RequesterName string            `json:"requester_name,omitempty"`
	ExpiresTime   string            `json:"expires_time"`
	SecondsLeft   int64             `json:"seconds_left"`
	Approvals     int               `json:"approvals"`
	Quorum        int               `json:"quorum"`
	Approver      string            `json:"approver"`
	Factors       []approval.Kind   `json:"factors"`
	PolicyHash    string            `json:"policy_hash"`
	PolicyChanged bool              `json:"policy_changed"`
	Policy        []string          `json:"policy"`
	NextHash      string            `json:"next_policy_hash,omitempty"`
	Changes       []string          `json:"policy_changes,omitempty"`
	Epoch         uint64            `json:"epoch,omitempty"`
	Decision      string            `json:"decision,omitempty"`
	Outcome       *approver.Outcome `json:"outcome,omitempty"`
}

type approverField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func openedDocOf(r *approver.Request, now time.Time) *openedDoc {
	u := &r.Subject
	d := &openedDoc{
		Request: u.Request.String(), Action: u.Action, Account: r.Account, AccountID: u.Account.String(), AccountKnown: r.Known,
		PublicKey: hex.EncodeToString(u.PublicKey), Algorithm: string(u.Algorithm), Path: u.DerivationPath, TaprootTweak: u.TaprootTweak,
		Requester: u.Requester, RequesterName: u.RequesterName, ExpiresTime: u.ExpiresAt().UTC().Format(time.RFC3339),
		SecondsLeft: int64(r.Left(now) / time.Second), Approvals: r.Approvals, Quorum: r.Policy.Quorum, Approver: r.Me.Name, Factors: r.MyKinds(),
		PolicyHash: hex.EncodeToString(u.Policy[:]), PolicyChanged: r.PolicyChanged, Policy: approver.PolicyLines(r.Policy),
	}
	if r.Next != nil {
		d.NextHash, d.Changes, d.Epoch = hex.EncodeToString(u.NextPolicy[:]), approver.Compare(r.Policy, r.Next), u.Epoch
		return d
	}
	m := r.Message()
	d.MessageType, d.MessageKind, d.Text, d.Hex, d.Size, d.Cut = string(u.MessageType), m.Kind, m.Text, m.Hex, m.Size, m.Cut
	d.MessageSHA256, d.Hash, d.Digest = hex.EncodeToString(m.SHA256[:]), string(u.Hash), hex.EncodeToString(r.Digest)
	for _, f := range m.Fields {
		d.Fields = append(d.Fields, approverField{f.Name, f.Value})
	}
	return d
}

// write shows everything that the signature will be for. What is the server's word
// is said to be.
func (d *openedDoc) write(t *text) {
	action := "sign a message"
	if d.Changes != nil {
		action = "change who approves for the account (its policy)"
	}
	known := "seen by this device before"
	if !d.AccountKnown {
		known = "NEW TO THIS DEVICE: compare the public key with one that you have from elsewhere"
	}
	t.line("You are asked to approve, as " + d.Approver + ":")
	t.blank()
	t.pairs("",
		"Action", action,
		"Account", d.Account+" ("+known+")",
		"Account ID", d.AccountID,
		"Public key", d.PublicKey,
		"Algorithm", d.Algorithm,
		"Derivation path", d.Path,
		"Taproot tweak", d.TaprootTweak,
		"Asked for by", named(d.RequesterName, d.Requester)+", says the server",
		"Request", d.Request,
		"Time left", fmt.Sprintf("%s, until %s", short(time.Duration(d.SecondsLeft)*time.Second), d.ExpiresTime),
		"Approvals", fmt.Sprintf("%d of %d, says the server", d.Approvals, d.Quorum),
	)
	if d.Changes != nil {
		t.blank()
		t.line(fmt.Sprintf("The policy in force and the one to come (- goes, + comes), from share epoch %d:", d.Epoch))
		t.blank()
		for _, l := range d.Changes {
			t.line(l)
		}
		t.blank()
		t.pairs("", "Policy hash", d.PolicyHash, "New policy hash", d.NextHash)
		return
	}
	t.blank()
	t.line("Message: " + d.MessageKind)
	t.blank()
	switch {
	case d.Fields != nil:
		for _, f := range d.Fields {
			t.indented("  | ", clean(f.Name)+"  "+clean(f.Value)) // a line break in a value is no new line
		}
	case d.Text != "":
		t.indented("  | ", d.Text)
	default:
		t.indented("  ", wrapped(d.Hex, 64))
	}
	if d.Cut {
		t.line(fmt.Sprintf("  … cut here: only the first %d bytes are shown. Compare the hash below with that of the whole message.", approver.MaxShown))
	}
	t.blank()
	t.pairs("", "Length", fmt.Sprintf("%d bytes", d.Size), "SHA-256", d.MessageSHA256, "Hashed by", d.Hash, "Digest", d.Digest)
	t.blank()
	t.line("Policy (" + d.PolicyHash + "):")
	if d.PolicyChanged {
		t.line("  It is ANOTHER ONE than when this device last saw the account.")
	}
	for _, l := range d.Policy {
		t.line("  " + l)
	}
}

func named(name, id string) string {
	if name == "" || name == id {
		return id
	}
	return name + " (" + id + ")"
}
