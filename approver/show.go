package approver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// MaxShown is how many bytes of a message are shown; of a longer one the person is
// told so, and can compare its hash.
const MaxShown = 4096

// Message is a message as people can read it.
type Message struct {
	// Kind says what it is: "text", "Ethereum message (EIP-191)", …
	Kind string
	// Text is what it says, empty where it is not text. It holds nothing that
	// could move a cursor or reorder letters, but for new lines.
	Text string
	// Fields are those of typed data (EIP-712), in the document's order.
	Fields []Field
	// Hex is the message in hex, where it is not text.
	Hex string
	// Size is its length in bytes, SHA256 its hash. Cut: not all of it is in Text
	// or Hex.
	Size   int
	SHA256 [32]byte
	Cut    bool
}

// Field is one value of typed data: "message.to.name", "Bob".
type Field struct{ Name, Value string }

// Message says what is asked to be signed; the zero value for a change of policy.
func (r *Request) Message() Message {
	if r.Subject.Action != approval.Sign {
		return Message{}
	}
	m := Message{Size: len(r.Input), SHA256: sha256.Sum256(r.Input)}
	switch r.Subject.MessageType {
	case mpc.MessageDigest:
		m.Kind, m.Hex = "a digest that was made elsewhere: what it is the digest of cannot be seen", hex.EncodeToString(r.Input)
		return m
	case mpc.MessageEIP712:
		m.Kind, m.Fields = "Ethereum typed data (EIP-712)", typedData(r.Input)
		return m
	case mpc.MessageEIP191:
		m.Kind = "Ethereum message (EIP-191), "
	}
	shown := r.Input
	if len(shown) > MaxShown {
		shown, m.Cut = shown[:MaxShown], true
	}
	if text, ok := readable(shown, m.Cut); ok {
		m.Kind, m.Text = m.Kind+"text", text
	} else {
		m.Kind, m.Hex = m.Kind+"bytes", hex.EncodeToString(shown)
	}
	return m
}

// readable reports whether bytes are text that says what it looks like. Of what was
// cut off, the end may be half a character.
func readable(b []byte, cut bool) (string, bool) {
	for i := 0; cut && i < utf8.UTFMax-1 && len(b) > 0 && !utf8.Valid(b); i++ {
		b = b[:len(b)-1]
	}
	if len(b) == 0 || !utf8.Valid(b) {
		return "", false
	}
	before := rune(0)
	for _, r := range string(b) {
		if r != '\n' && r != '\t' && !visible(before, r) {
			return "", false
		}
		before = r
	}
	return string(b), true
}

// visible reports whether r draws something, after before: not what Unicode lets
// programs ignore, such as its 256 variation selectors, which can carry any bytes, nor
// the blank Braille pattern. How a symbol is drawn may be said behind it.
func visible(before, r rune) bool {
	const asEmoji, blankBraille = '\ufe0f', '\u2800'
	if r == asEmoji {
		return unicode.Is(unicode.So, before)
	}
	return unicode.IsPrint(r) && r != blankBraille && !unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// typedData lists the values of typed data. SigningInput has accepted it before: it
// has no surplus members, no duplicate keys and no null, so that what is listed is
// what is hashed.
func typedData(document []byte) []Field {
	var top struct {
		PrimaryType string          `json:"primaryType"`
		Domain      json.RawMessage `json:"domain"`
		Message     json.RawMessage `json:"message"`
	}
	if json.Unmarshal(document, &top) != nil {
		return nil
	}
	out := []Field{{"type", top.PrimaryType}}
	out = flatten(out, "domain", top.Domain)
	return flatten(out, "message", top.Message)
}

// flatten walks JSON in its own order.
func flatten(out []Field, name string, raw json.RawMessage) []Field {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	token, err := d.Token()
	if err != nil {
		return out
	}
	switch token {
	case json.Delim('{'):
		for d.More() {
			key, _ := d.Token()
			var value json.RawMessage
			if d.Decode(&value) != nil {
				return out
			}
			out = flatten(out, name+"."+fmt.Sprint(key), value)
		}
		return out
	case json.Delim('['):
		i := 0
		for ; d.More(); i++ {
			var value json.RawMessage
			if d.Decode(&value) != nil {
				return out
			}
			out = flatten(out, fmt.Sprintf("%s[%d]", name, i), value)
		}
		if i == 0 {
			out = append(out, Field{name, "(empty list)"})
		}
		return out
	}
	if s, ok := token.(string); ok {
		return append(out, Field{name, s})
	}
	return append(out, Field{name, fmt.Sprint(token)})
}

// Left is how long the request is still open, whole seconds, never below 0.
func (r *Request) Left(now time.Time) time.Duration {
	return max(time.Unix(r.Subject.Expires, 0).Sub(now).Truncate(time.Second), 0)
}

// PolicyLines says what a policy demands and of whom, with the IDs of all keys: one
// line for each fact, so that two policies can be compared line by line.
func PolicyLines(p *approval.Policy) []string {
	lines := []string{
		fmt.Sprintf("%d of %d approvers", p.Quorum, len(p.Approvers)),
		fmt.Sprintf("%d kinds of factors each, %d verified by nodes", p.Factors, p.SignatureFactors),
		fmt.Sprintf("requests end after %s", p.Expiry),
		fmt.Sprintf("asked for in share epoch %d", p.Since),
	}
	for i := range p.Approvers {
		a := &p.Approvers[i]
		self := "may not approve what is asked for by " + strings.Join(a.Requesters, ", ")
		if slices.Equal(a.Requesters, []string{"none"}) {
			self = "asks for nothing, since it has no Vault entity"
		}
		lines = append(lines, fmt.Sprintf("approver %q (%s)", a.Name, a.ID), fmt.Sprintf("approver %q %s", a.Name, self))
		for k := range a.Keys {
			where := ""
			if a.Keys[k].RPID != "" {
				where = " for " + a.Keys[k].RPID + " on " + strings.Join(a.Keys[k].Origins, ", ")
			}
			lines = append(lines, fmt.Sprintf("approver %q: %s %q %s%s", a.Name, a.Keys[k].Kind, a.Keys[k].Name, a.Keys[k].ID(), where))
		}
		for _, k := range a.Checked {
			lines = append(lines, fmt.Sprintf("approver %q: %s, checked by the coordinator", a.Name, k))
		}
	}
	return lines
}

// Compare returns the lines of both policies: those of the old one alone are marked
// "- ", those of the new one alone "+ ", common ones "  ".
func Compare(old, next *approval.Policy) []string {
	a, b := PolicyLines(old), PolicyLines(next)
	inB := map[string]bool{}
	for _, l := range b {
		inB[l] = true
	}
	inA := map[string]bool{}
	var out []string
	for _, l := range a {
		inA[l] = true
		if !inB[l] {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		mark := "+ "
		if inA[l] {
			mark = "  "
		}
		out = append(out, mark+l)
	}
	return out
}
