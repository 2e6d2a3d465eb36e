package cli

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 鍵":               "plain é 鍵",
		"\x1b[31mred":             `\x1b[31mred`,
		"a\nb\tc\rd":              `a\x0ab\x09c\x0dd`,
		"\u009b2J":                `\u009b2J`,
		"abc\u202etxt":            `abc\u202etxt`,
		"\xff\xfe":                `\xff\xfe`,
		"\u2028":                  `\u2028`,
		"\U000e0041":              `\U000e0041`,
		"\x7f":                    `\x7f`,
		"pay 1\ufe0f00":           `pay 1\ufe0f00`,
		"\u2800\u3164":            `\u2800\u3164`,
		"real replacement \ufffd": "real replacement \ufffd",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := cleanLines("a\nb\x1b"); got != "a\nb\\x1b" {
		t.Errorf("cleanLines keeps line breaks only: %q", got)
	}
}

func FuzzCleanJSON(f *testing.F) {
	f.Add("\x1b[2J \u009b \u202e \U000e0041 \x7f <&>")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip()
		}
		doc, err := json.MarshalIndent(map[string]string{"k": s}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		safe := cleanJSON(doc)
		for _, r := range string(safe) {
			if r != '\n' && unsafeRune(r) {
				t.Fatalf("%q reaches the terminal", r)
			}
		}
		var back map[string]string
		if err := json.Unmarshal(safe, &back); err != nil || back["k"] != s {
			t.Fatalf("%q became %q (%v)", s, back["k"], err)
		}
		for _, r := range clean(s) {
			if unsafeRune(r) {
				t.Fatalf("%q reaches the terminal", r)
			}
		}
	})
}

// Hostile text in every kind of answer must not reach the terminal as it is.
func TestHostileServer(t *testing.T) {
	s := engine(t)
	const evil = `\u001b]0;pwned\u0007\u202e\u009b2J`
	s.on("GET mpc/accounts/treasury", data(`{"name":"`+evil+`","state":"`+evil+`","public_key":"a\n`+evil+`",
		"public_key_hex":"`+evil+`","metadata":{"`+evil+`":"`+evil+`"},"birth_certificate":"`+evil+`"}`))
	s.on("LIST mpc/accounts", data(`{"keys":["`+evil+`"],"key_info":{"`+evil+`":{"state":"`+evil+`"}}}`))
	s.on("GET mpc/nodes/local-1", data(`{"id":"`+evil+`","state":"`+evil+`","last_error":"`+evil+`","hsm":"`+evil+`"}`))
	s.on("PUT mpc/sign/treasury", raw(400, `{"errors":["`+evil+`"]}`))
	s.on("PUT mpc/verify/treasury", raw(200, `{"data":{"valid":true},"warnings":["`+evil+`"]}`))
	for _, args := range [][]string{
		{"account", "show", "treasury"}, {"account", "list"}, {"status"},
		{"account", "sign", "treasury", "--input", "x"},
		{"account", "verify", "treasury", "--input", "x", "--signature", "AA=="},
	} {
		for _, format := range []string{"table", "json"} {
			res := run(t, append(args, "-o", format)...)
			seen := false
			for _, r := range res.stdout + res.stderr {
				if r != '\n' && unsafeRune(r) {
					t.Errorf("%v -o %s prints %q", args, format, r)
				}
				seen = seen || r == 'p'
			}
			if !seen {
				t.Errorf("%v -o %s printed nothing", args, format)
			}
		}
	}
}
