package eip712

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite testdata/page.json") // read only

// goldenFile holds documents on which this package and the approvers' page
// (ui/src/eip712.js) have to agree; package e2e has the page read it in a browser.
const goldenFile = "testdata/page.json"

// golden is one of them.
type golden struct {
	Name     string `json:"name"`
	Document string `json:"document,omitempty"`
	Base64   []byte `json:"base64,omitempty"` // instead, where it is not UTF-8
	Digest   string `json:"digest"`           // empty: both refuse it
}

func (g *golden) bytes() []byte {
	if g.Base64 != nil {
		return g.Base64
	}
	return []byte(g.Document)
}

// goldenDocuments are the documents of this package's tests, but for the very long,
// and what a reader in another language may get wrong.
func goldenDocuments(t *testing.T) []golden {
	t.Helper()
	const long = 8 << 10
	var out []golden
	add := func(name, document string) {
		switch {
		case len(document) > long:
		case utf8.ValidString(document):
			out = append(out, golden{Name: name, Document: document})
		default:
			out = append(out, golden{Name: name, Base64: []byte(document)})
		}
	}
	add("Ether Mail", example)
	for _, c := range values() {
		add(fmt.Sprintf("%s = %.60q", c.typ, c.value), of(c.typ, c.value))
	}
	all := refusals(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		add(name, all[name].document)
	}
	for n := 1; n <= 33; n++ {
		add(fmt.Sprintf("bytes%d", n), of(fmt.Sprintf("bytes%d", n), `"0x`+strings.Repeat("aB", n)+`"`))
	}
	for n := 8; n <= 256; n += 8 {
		most := strings.Repeat("f", n/4)
		add(fmt.Sprintf("uint%d, the most", n), of(fmt.Sprintf("uint%d", n), `"0x`+most+`"`))
		add(fmt.Sprintf("uint%d, one more", n), of(fmt.Sprintf("uint%d", n), `"0x1`+strings.Repeat("0", n/4)+`"`))
		add(fmt.Sprintf("int%d, the most", n), of(fmt.Sprintf("int%d", n), `"0x7`+most[1:]+`"`))
		add(fmt.Sprintf("int%d, one more", n), of(fmt.Sprintf("int%d", n), `"0x8`+strings.Repeat("0", n/4-1)+`"`))
	}
	for _, n := range []int{0, 1, 31, 32, 33, 135, 136, 137, 271, 272, 273} { // Keccak-256 takes 136 bytes at a time
		add(fmt.Sprintf("%d bytes", n), of("bytes", `"0x`+strings.Repeat("5a", n)+`"`))
		add(fmt.Sprintf("a text of %d", n), of("string", `"`+strings.Repeat("x", n)+`"`))
	}
	for _, s := range []string{`zażółć gęślą jaźń 🔑`, `\u0000\b\f\n\r\t\"\\\/`, `\ud83d\udd11`, "\u2028\u2029\ufeff\u202e", "e\u0301 is not é", "\U0010ffff", `\u00e9\u00E9`, "\x7f",
		"a\ttab", "a\nline", `\x41`, `\u12`, `\u12g4`, `\`, `\'`, `\U0041`, `\ud83d\ud83d\udd11`, `\ud83dx\udd11`, "\ufffd"} {
		add(fmt.Sprintf("the text %.40q", s), of("string", `"`+s+`"`))
	}
	for _, n := range []string{"00", "-", "+1", ".5", "5.", "0x10", "1e", "1e+", "1e+3", "-1.5E-3", "01", "- 1", "NaN", "Infinity", "1_000", "１", "9007199254740992.0", "-9007199254740992", "9007199254740991", "-9007199254740991"} {
		add("the number "+n, of("int256", n))
	}
	// Names that objects of JavaScript have by birth.
	for _, name := range []string{"__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "length"} {
		add("a member called "+name, strings.ReplaceAll(example, `"contents"`, `"`+name+`"`))
		add("a type called "+name, strings.ReplaceAll(example, `"Person"`, `"`+name+`"`))
		add("a type called "+name+" that is not there", strings.Replace(example, `"type":"Person"`, `"type":"`+name+`"`, 1))
		add("surplus: "+name, strings.Replace(example, `"contents":`, `"`+name+`":{},"contents":`, 1))
		add("twice: "+name, strings.Replace(strings.ReplaceAll(example, `"contents"`, `"`+name+`"`), `"message":{`, `"message":{"`+name+`":"x",`, 1))
	}
	add("dollars in a member's name", strings.ReplaceAll(example, `"contents"`, `"$_$1"`))
	add("a colon in the primary type", strings.ReplaceAll(strings.Replace(of("uint8", "1"), `"M":`, `"A:B_1:C":`, 1), `"primaryType":"M"`, `"primaryType":"A:B_1:C"`))
	add("space everywhere", strings.NewReplacer("{", " {\t", "}", "\r\n } ", ":", " : ", ",", "\n,\t", "[", " [ ", "]", " ] ").Replace(of("uint8[2][]", "[[1,2],[3,4]]")))
	for _, space := range []string{"\v", "\f", "\u00a0", "\u2028", "\ufeff", "\x00"} {
		add(fmt.Sprintf("%q as space", space), space+example)
		add(fmt.Sprintf("%q as space behind", space), example+space)
	}
	for _, c := range []struct{ typ, value string }{
		{"uint8[2][3][]", `[[[1,2],[3,4],[5,6]],[[7,8],[9,10],[11,12]]]`}, {"uint8[2][3][]", `[]`}, {"uint8[][2][]", `[[[],[1]],[[2,3],[]]]`}, {"uint8[3][2]", `[[1,2,3],[4,5,6]]`},
		{"uint8[2][3]", `[[1,2,3],[4,5,6]]`}, {"N[][2]", `[[],[{"y":1},{"y":"0x2"}]]`}, {"M[]", `[]`}, {"M[]", `[{"x":[]},{"x":[{"x":[]}]}]`}, {"M[1]", `[{"x":[]}]`}, {"M[2][]", `[]`}, {"M", `{}`},
		{"string[]", `["","a","\u0061"]`}, {"bool[2]", `[true,false]`}, {"bytes[]", `["0x","0xff"]`}, {"address[1]", `["0x0000000000000000000000000000000000000000"]`}, {"uint8[999999999]", `[]`}, {"uint8[1000000000]", `[]`},
		{"uint8", `["1"]`}, {"bytes", `["0x01"]`}, {"bytes1", `["0x01"]`}, {"string", `["a"]`}, {"bool", `[true]`}, {"bool", `""`}, {"N", `[{"y":1}]`}, {"uint8[]", `"12"`}, {"uint8[]", `{"0":1}`},
	} {
		add(c.typ+" = "+c.value, of(c.typ, c.value))
	}
	domains := []string{`"name":"d"`, `"version":"1"`, `"chainId":"115792089237316195423570985008687907853269984665640564039457584007913129639935"`, `"verifyingContract":"0xcccccccccccccccccccccccccccccccccccccccc"`, `"salt":"0x` + strings.Repeat("07", 32) + `"`}
	for set := range 1 << len(domains) { // the empty one is refused
		var members, have []string
		for i, name := range domainOrder() {
			if set>>i&1 == 1 {
				members, have = append(members, fmt.Sprintf(`{"name":%q,"type":%q}`, name, domainMembers[name])), append(have, domains[i])
			}
		}
		add(fmt.Sprintf("domain %05b", set), fmt.Sprintf(`{"types":{"M":[{"name":"x","type":"bool"}],"EIP712Domain":[%s]},"primaryType":"M","domain":{%s},"message":{"x":true}}`, strings.Join(members, ","), strings.Join(have, ",")))
	}
	// What would be taken, but for the one thing that is wrong with it.
	add("the domain as the message", strings.Replace(of("bool", `true`), `"primaryType":"M","domain":{"name":"d"},"message":{"x":true}`, `"primaryType":"EIP712Domain","domain":{"name":"d"},"message":{"name":"d"}`, 1))
	add("a member that is there twice", strings.Replace(of("bool", `true`), `"M":[`, `"M":[{"name":"x","type":"bool"},`, 1))
	add("a domain's member that is there twice", strings.Replace(of("bool", `true`), `"EIP712Domain":[`, `"EIP712Domain":[{"name":"name","type":"string"},`, 1))
	for _, typ := range []string{"uint8[999999999]", "uint8[1000000000]", "uint8[0]", "uint8[00]", "EIP712Domain", "N[][1]", "n", "bytes032", "int264", "string1"} {
		add("a member of the type "+typ+" that nothing uses", strings.Replace(of("bool", `true`), `"N":[`, fmt.Sprintf(`"N":[{"name":"z","type":%q},`, typ), 1))
	}
	for _, name := range []string{"1a", "a1", "a-b", "a b", " a", "a\\n", "é", "", "$", "_"} {
		add(fmt.Sprintf("a member called %q that nothing uses", name), strings.Replace(of("bool", `true`), `"N":[`, `"N":[{"name":"`+name+`","type":"bool"},`, 1))
		add(fmt.Sprintf("a type called %q that nothing uses", name), strings.Replace(of("bool", `true`), `"N":[`, `"`+name+`":[{"name":"x","type":"bool"}],"N":[`, 1))
	}
	// References in a ring, unsorted, reached over arrays, and types that nothing uses.
	add("a ring of types", `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"Z":[{"name":"b","type":"B[]"}],"a":[{"name":"z","type":"Z[2][]"}],"B":[{"name":"a","type":"a[]"},{"name":"_","type":"_1"}],"_1":[{"name":"n","type":"int8"}],"Unused":[{"name":"z","type":"Z"}]},"primaryType":"Z","domain":{"name":""},"message":{"b":[{"_":{"n":-128},"a":[{"z":[[{"b":[]},{"b":[]}]]}]}]}}`)
	for _, depth := range []int{maxDepth - 2, maxDepth - 1} { // document and message are levels, too
		add(fmt.Sprintf("%d lists", depth), of("uint8"+strings.Repeat("[]", depth), strings.Repeat("[", depth)+strings.Repeat("]", depth)))
	}
	for _, n := range []int{maxIdentifier, maxIdentifier + 1} {
		add(fmt.Sprintf("a member's name of %d", n), strings.ReplaceAll(example, `"contents"`, `"`+strings.Repeat("n", n)+`"`))
		add(fmt.Sprintf("a type's name of %d", n), strings.ReplaceAll(example, `"Person"`, `"`+strings.Repeat("N", n)+`"`))
	}
	for _, typ := range []string{"N[1]" + strings.Repeat("[]", (maxTypeName-4)/2), "N" + strings.Repeat("[]", maxTypeName/2)} {
		add(fmt.Sprintf("a type of %d", len(typ)), strings.ReplaceAll(of("uint8", "1"), `{"name":"y","type":"uint8"}`, `{"name":"y","type":"uint8"},{"name":"z","type":"`+typ+`"}`))
	}
	for i := range out {
		if d, err := Digest(out[i].bytes()); err == nil {
			out[i].Digest = hex.EncodeToString(d[:])
		}
	}
	return out
}

// TestGolden: nothing here is read in another way than when the file was written.
// After a change that is meant to: go test ./mpc/eip712 -run TestGolden -update
func TestGolden(t *testing.T) {
	made := goldenDocuments(t)
	if *update {
		text, err := json.MarshalIndent(made, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var want []golden
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, g := range want {
		d, err := Digest(g.bytes())
		switch got := hex.EncodeToString(d[:]); {
		case g.Digest == "" && err == nil:
			t.Errorf("%s is taken", g.Name)
		case g.Digest != "" && (err != nil || got != g.Digest):
			t.Errorf("%s: %s, want %s, %v", g.Name, got, g.Digest, err)
		case g.Digest != "":
			taken++
		}
	}
	if len(want) != len(made) || taken < 150 || len(want)-taken < 150 {
		t.Errorf("%d documents in the file, %d taken; %d are made here", len(want), taken, len(made))
	}
}
