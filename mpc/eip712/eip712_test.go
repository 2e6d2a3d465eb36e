package eip712

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// example is the document of EIP-712 itself.
const example = `{"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],` +
	`"Person":[{"name":"name","type":"string"},{"name":"wallet","type":"address"}],` +
	`"Mail":[{"name":"from","type":"Person"},{"name":"to","type":"Person"},{"name":"contents","type":"string"}]},` +
	`"primaryType":"Mail","domain":{"name":"Ether Mail","version":"1","chainId":1,"verifyingContract":"0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"},` +
	`"message":{"from":{"name":"Cow","wallet":"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},"to":{"name":"Bob","wallet":"0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},"contents":"Hello, Bob!"}}`

// TestExample: the published values of EIP-712's example, step by step.
func TestExample(t *testing.T) {
	domain, message, err := hashes([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := Digest([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		got  [32]byte
		want string
	}{
		{"domain separator", domain, "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"},
		{"hash of the message", message, "c52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e"},
		{"digest", digest, "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"},
	} {
		if hex.EncodeToString(c.got[:]) != c.want {
			t.Errorf("%s: %x", c.what, c.got)
		}
	}
	top, err := parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseTypes(top["types"])
	if err != nil {
		t.Fatal(err)
	}
	if h := s["Mail"].typeHash(); hex.EncodeToString(h[:]) != "a0cedeb2dc280ba39b857546d74f5549c3a1d7bdc2dd96bf881f76108e23dac2" {
		t.Errorf("type hash %x", h)
	}
}

// TestVectors: what ethers and eth-sig-util compute; see
// ../testdata/ethers.mjs.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/eip712.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct{ Name, Document, Domain, Message, Digest string }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 50 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		domain, message, err := hashes([]byte(v.Document))
		if err != nil {
			t.Errorf("%s: %v\n%s", v.Name, err, v.Document)
			continue
		}
		digest, err := Digest([]byte(v.Document))
		if err != nil || hex.EncodeToString(digest[:]) != v.Digest {
			t.Errorf("%s: digest %x, want %s, %v", v.Name, digest, v.Digest, err)
		}
		if hex.EncodeToString(domain[:]) != v.Domain {
			t.Errorf("%s: domain %x, want %s", v.Name, domain, v.Domain)
		}
		if hex.EncodeToString(message[:]) != v.Message {
			t.Errorf("%s: message %x, want %s", v.Name, message, v.Message)
		}
	}
}

// of is a document with one member x of a type.
func of(typ, value string) string {
	return fmt.Sprintf(`{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":%q}],"N":[{"name":"y","type":"uint8"}]},`+
		`"primaryType":"M","domain":{"name":"d"},"message":{"x":%s}}`, typ, value)
}

// valueCase is a value of a type and the word that stands for it.
type valueCase struct {
	typ, value string
	want       string // the word in hex, empty for a refusal
}

// values are which values a type takes and how they are encoded.
func values() []valueCase {
	word := func(text string) string { return strings.Repeat("0", 64-len(text)) + text }
	ones := strings.Repeat("f", 64)
	return []valueCase{
		{"uint8", `255`, word("ff")},
		{"uint8", `"255"`, word("ff")},
		{"uint8", `"0xff"`, word("ff")},
		{"uint8", `"0x00FF"`, word("ff")},
		{"uint8", `256`, ""},
		{"uint8", `"0x100"`, ""},
		{"uint8", `-1`, ""},
		{"uint8", `"-1"`, ""},
		{"uint64", `9007199254740991`, word("1fffffffffffff")},
		{"uint64", `9007199254740992`, ""}, // JavaScript has it for 9007199254740993 too
		{"int64", `-9007199254740991`, ones[:50] + "e0000000000001"},
		{"int64", `-9007199254740992`, ""},
		{"uint64", `9007199254740993`, ""},
		{"uint64", `"9007199254740993"`, word("20000000000001")},
		{"uint256", `115792089237316195423570985008687907853269984665640564039457584007913129639935`, ""},
		{"uint256", `"115792089237316195423570985008687907853269984665640564039457584007913129639935"`, ones},
		{"uint256", `"115792089237316195423570985008687907853269984665640564039457584007913129639936"`, ""},
		{"uint256", `"0x` + ones + `"`, ones},
		{"uint256", `"0x0` + ones + `"`, ""},
		{"int8", `127`, word("7f")},
		{"int8", `128`, ""},
		{"int8", `-128`, ones[:62] + "80"},
		{"int8", `"-128"`, ones[:62] + "80"},
		{"int8", `-129`, ""},
		{"int8", `"0xff"`, ""}, // 255: hex is a number, not its two's complement
		{"int256", `-1`, ones},
		{"int256", `"-57896044618658097711785492504343953926634992332820282019728792003956564819968"`, "8" + strings.Repeat("0", 63)},
		{"int256", `"57896044618658097711785492504343953926634992332820282019728792003956564819968"`, ""},
		{"uint256", `0`, word("")},
		{"uint256", `-0`, ""},
		{"uint256", `"-0"`, ""},
		{"uint256", `"007"`, ""},
		{"uint256", `"+7"`, ""},
		{"uint256", `" 7"`, ""},
		{"uint256", `"1_0"`, ""},
		{"uint256", `"0x1_0"`, ""},
		{"uint256", `"0X10"`, ""},
		{"uint256", `"-0x1"`, ""},
		{"int256", `"-0x1"`, ""},
		{"int256", `"0x-1"`, ""},
		{"uint256", `"0x"`, ""},
		{"uint256", `""`, ""},
		{"uint256", `"-"`, ""},
		{"uint256", `1.0`, ""},
		{"uint256", `1e3`, ""},
		{"uint256", `1E400000000`, ""},
		{"uint256", `null`, ""},
		{"uint256", `true`, ""},
		{"uint256", `[1]`, ""},
		{"uint256", strings.Repeat("9", 300000), ""},
		{"uint256", `"` + strings.Repeat("9", 300000) + `"`, ""},
		{"bool", `true`, word("1")},
		{"bool", `false`, word("")},
		{"bool", `"true"`, ""},
		{"bool", `1`, ""},
		{"bool", `null`, ""},
		{"bytes3", `"0x010203"`, "010203" + strings.Repeat("0", 58)},
		{"bytes3", `"0x0102"`, ""},
		{"bytes3", `"0x01020304"`, ""},
		{"bytes3", `"010203"`, ""},
		{"bytes3", `"0X010203"`, ""},
		{"bytes3", `[1,2,3]`, ""},
		{"bytes", `"0x"`, "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"}, // keccak256 of nothing
		{"bytes", `"0x616263"`, "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"},
		{"bytes", `"0x6"`, ""},
		{"bytes", `"abc"`, ""},
		{"bytes", `""`, ""},
		{"string", `"abc"`, "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"},
		{"string", `"\u0061bc"`, "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"},
		{"string", `5`, ""},
		{"string", `null`, ""},
		{"address", `"0xcd2a3d9f938e13cd947ec05abc7fe734df8dd826"`, word("cd2a3d9f938e13cd947ec05abc7fe734df8dd826")},
		{"address", `"0xCD2A3D9F938E13CD947EC05ABC7FE734DF8DD826"`, word("cd2a3d9f938e13cd947ec05abc7fe734df8dd826")},
		{"address", `"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"`, word("cd2a3d9f938e13cd947ec05abc7fe734df8dd826")},
		{"address", `"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD827"`, ""},
		{"address", `"0xcD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"`, ""},
		{"address", `"0xcd2a3d9f938e13cd947ec05abc7fe734df8dd8"`, ""},
		{"address", `"cd2a3d9f938e13cd947ec05abc7fe734df8dd826"`, ""},
		{"address", `5`, ""},
		{"uint8[]", `[]`, "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"},
		{"uint8[]", `[256]`, ""},
		{"uint8[]", `{}`, ""},
		{"uint8[]", `null`, ""},
		{"uint8[2]", `[1]`, ""},
		{"uint8[2]", `[1,2,3]`, ""},
		{"uint8[2][]", `[[1,2],[3]]`, ""},
		{"uint8[2][1]", `[[1],[2]]`, ""}, // the last length is the outermost
		{"N", `{}`, ""},
		{"N", `{"y":1,"z":2}`, ""},
		{"N", `null`, ""},
		{"N", `[1]`, ""},
		{"N[]", `[{"y":1},{"y":"x"}]`, ""},
		// Not types.
		{"uint", `1`, ""}, {"int", `1`, ""}, {"uint0", `1`, ""}, {"uint7", `1`, ""}, {"uint264", `1`, ""}, {"uint08", `1`, ""}, {"Uint8", `1`, ""},
		{"bytes0", `"0x"`, ""}, {"bytes33", `"0x"`, ""}, {"byte", `"0x01"`, ""}, {"fixed128x18", `1`, ""}, {"function", `"0x"`, ""},
		{"uint8[0]", `[]`, ""}, {"uint8[01]", `[1]`, ""}, {"uint8[-1]", `[]`, ""}, {"uint8[ ]", `[]`, ""}, {"uint8[", `[]`, ""}, {"uint8]", `[]`, ""},
		{"uint8[]x", `[]`, ""}, {"uint8[1]]", `[1]`, ""}, {"uint8[99999999999999999999]", `[]`, ""}, {"[]", `[]`, ""}, {"", `1`, ""}, {" uint8", `1`, ""},
		{"Nobody", `{}`, ""}, {"EIP712Domain", `{"name":"d"}`, ""},
	}
}

func TestValues(t *testing.T) {
	for _, c := range values() {
		text := of(c.typ, c.value)
		_, got, err := hashes([]byte(text))
		name := c.typ + " " + c.value[:min(len(c.value), 80)]
		if c.want == "" {
			if err == nil {
				t.Errorf("%s is taken", name)
			} else if len(err.Error()) > 400 {
				t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
			}
			continue
		}
		definition := keccak256([]byte("M(" + c.typ + " x)"))
		word, _ := hex.DecodeString(c.want)
		if want := keccak256(definition[:], word); err != nil || got != want {
			t.Errorf("%s: %x, want %x, %v", name, got, want, err)
		}
	}
}

// refusal is a document that is not taken, and what the error says.
type refusal struct{ document, text string }

// refusals are documents that could be read in more than one way, or not at all.
func refusals(t *testing.T) map[string]refusal {
	t.Helper()
	replace := func(old, with string) string {
		if !strings.Contains(example, old) {
			t.Fatalf("the example has no %s", old)
		}
		return strings.Replace(example, old, with, 1)
	}
	var many strings.Builder
	for i := range maxTypes + 1 {
		fmt.Fprintf(&many, `"T%d":[{"name":"a","type":"bool"}],`, i)
	}
	var wide strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&wide, `{"name":"%s%d","type":"uint256"},`, strings.Repeat("a", 100), i)
	}
	return map[string]refusal{
		"nothing":                  {"", "not JSON"},
		"text":                     {"Mail", "not JSON"},
		"null":                     {"null", "not a JSON object"},
		"a list":                   {"[]", "not a JSON object"},
		"two documents":            {example + example, "not JSON"},
		"something behind":         {example + "x", "not JSON"},
		"cut short":                {example[:len(example)-1], "not JSON"},
		"a byte order mark":        {"\ufeff" + example, "not JSON"},
		"UTF-16":                   {"\xff\xfe{\x00}\x00", "UTF-8"},
		"not UTF-8":                {replace("Bob!", "\xff"), "UTF-8"},
		"half a pair":              {replace("Bob!", `\ud83d`), "surrogate"},
		"the other half":           {replace("Bob!", `\udd11`), "surrogate"},
		"halves in disorder":       {replace("Bob!", `\udd11\ud83d`), "surrogate"},
		"half and a letter":        {replace("Bob!", `\ud83d\u0041`), "surrogate"},
		"half in a key":            {replace(`"contents":"Hello`, `"contents\ud800":"Hello`), "surrogate"},
		"too long":                 {example + strings.Repeat(" ", MaxSize), "524288"},
		"duplicate top":            {replace(`"primaryType"`, `"primaryType":"Person","primaryType"`), "twice"},
		"duplicate member":         {replace(`"contents":"Hello`, `"contents":"Bye","contents":"Hello`), "twice"},
		"duplicate, escaped":       {replace(`"contents":"Hello`, `"c\u006fntents":"Bye","contents":"Hello`), "twice"},
		"duplicate type":           {replace(`"Person":[`, `"Person":[{"name":"name","type":"string"}],"Person":[`), "twice"},
		"duplicate in a member":    {replace(`{"name":"wallet",`, `{"name":"wallet","name":"wallet",`), "twice"},
		"surplus top":              {replace(`{"types"`, `{"extra":1,"types"`), `"extra" is not expected`},
		"another case":             {replace(`{"types"`, `{"Types":{},"types"`), `"Types" is not expected`},
		"surplus member":           {replace(`"contents":"Hello`, `"value":1,"contents":"Hello`), `"message.value" is not expected`},
		"surplus nested":           {replace(`"name":"Bob"`, `"name":"Bob","age":1`), `"message.to.age" is not expected`},
		"surplus in the domain":    {replace(`"domain":{`, `"domain":{"x":1,`), "is not expected"},
		"missing in the domain":    {replace(`"chainId":1,`, ``), `"domain.chainId" is missing`},
		"missing member":           {replace(`,"contents":"Hello, Bob!"`, ``), `"message.contents" is missing`},
		"null struct":              {replace(`{"name":"Bob","wallet":"0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"}`, "null"), `"message.to" must be an object`},
		"no domain":                {replace(`"domain":{`, `"domains":{`), `"domain" is missing`},
		"no domain type":           {replace(`"EIP712Domain":[`, `"Domain":[`), "EIP712Domain"},
		"an empty domain type":     {replace(`"EIP712Domain":[`, `"EIP712Domain":[],"Other":[`), "list of members"},
		"an unknown domain member": {replace(`{"name":"version","type":"string"}`, `{"name":"origin","type":"string"}`), `"types.EIP712Domain.origin"`},
		"a domain member's type":   {replace(`{"name":"chainId","type":"uint256"}`, `{"name":"chainId","type":"uint64"}`), "must have the type uint256"},
		"a domain out of order":    {replace(`{"name":"name","type":"string"},{"name":"version","type":"string"}`, `{"name":"version","type":"string"},{"name":"name","type":"string"}`), "out of order"},
		"many values":              {of("uint8[]", "["+strings.Repeat("0,", maxValues)+"0]"), "one value too many"},
		"primary type unknown":     {replace(`"primaryType":"Mail"`, `"primaryType":"Letter"`), "not among types"},
		"primary type elementary":  {replace(`"primaryType":"Mail"`, `"primaryType":"string"`), "not among types"},
		"primary type an array":    {replace(`"primaryType":"Mail"`, `"primaryType":"Mail[]"`), "not among types"},
		"primary type the domain":  {replace(`"primaryType":"Mail"`, `"primaryType":"EIP712Domain"`), "not EIP712Domain"},
		"primary type no string":   {replace(`"primaryType":"Mail"`, `"primaryType":1`), "must be a string"},
		"types a list":             {replace(`"types":{`, `"types":[],"x":{`), "is not expected"},
		"types null":               {`{"types":null,"primaryType":"M","domain":{},"message":{}}`, `"types" must be an object`},
		"a struct called uint256":  {replace(`"Person":[`, `"uint256":[{"name":"x","type":"bool"}],"Person":[`), "elementary type"},
		"a struct called uint":     {replace(`"Person":[`, `"uint":[{"name":"x","type":"bool"}],"Person":[`), "elementary type"},
		"a struct with brackets":   {replace(`"Person":[`, `"A(bool b)B":[{"name":"x","type":"bool"}],"Person":[`), "not a name for a type"},
		"a struct with a dollar":   {replace(`"Person":[`, `"A$":[{"name":"x","type":"bool"}],"Person":[`), "not a name for a type"},
		"a colon behind":           {replace(`"Person":[`, `"A:":[{"name":"x","type":"bool"}],"Person":[`), "not a name for a type"},
		"a colon alone":            {replace(`"Person":[`, `":":[{"name":"x","type":"bool"}],"Person":[`), "not a name for a type"},
		"a colon referred to":      {replace(`"Person":[`, `"A:B":[{"name":"x","type":"bool"}],"C":[{"name":"x","type":"A:B"}],"Person":[`), "neither elementary"},
		"a colon that refers":      {replace(`"Person":[`, `"A:B":[{"name":"x","type":"Mail[]"}],"Person":[`), "colon"},
		"a struct in Cyrillic":     {replace(`"Person":[`, `"Реrson":[{"name":"x","type":"bool"}],"Person":[`), "not a name for a type"},
		"a struct of nothing":      {replace(`"Person":[`, `"A":[],"Person":[`), "list of members"},
		"a member with a comma":    {replace(`{"name":"contents"`, `{"name":"contents,bool x"`), "not a name"},
		"a member without a name":  {replace(`{"name":"contents"`, `{"name":""`), "not a name"},
		"a member twice":           {replace(`{"name":"to","type":"Person"}`, `{"name":"from","type":"Person"}`), "earlier member"},
		"a member with more":       {replace(`{"name":"to",`, `{"internalType":"x","name":"to",`), "internalType"},
		"a member without a type":  {replace(`{"name":"to","type":"Person"}`, `{"name":"to"}`), "type\" is missing"},
		"a member that is a list":  {replace(`{"name":"to","type":"Person"}`, `["to","Person"]`), `must be {"name"`},
		"many types":               {replace(`"Person":[`, many.String()+`"Person":[`), "more than 128"},
		"long types":               {replace(`"Person":[`, `"Person":[`+wide.String()), "bytes of names"},
		"a long name":              {replace(`"name":"contents"`, `"name":"`+strings.Repeat("a", 129)+`"`), "not a name"},
		"a long type":              {replace(`"type":"Person"`, `"type":"`+strings.Repeat("[]", 129)+`"`), "at most 256"},
		"deep":                     {of("uint8"+strings.Repeat("[]", 100), strings.Repeat("[", 100)+strings.Repeat("]", 100)), "deeper than 64"},
		"very deep":                {strings.Repeat("[", MaxSize/2) + strings.Repeat("]", MaxSize/2), ""},
		"very deep objects":        {strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000), "deeper than 64"},
		"infinite type":            {of("M", `{"x":{"x":null}}`), "must be an object"},
		"a long place":             {of("N", `{"y":1,"`+strings.Repeat("é", 100000)+`":1}`), "…"},
	}
}

func TestRefused(t *testing.T) {
	for name, c := range refusals(t) {
		_, err := Digest([]byte(c.document))
		switch {
		case err == nil:
			t.Errorf("%s is taken", name)
		case !strings.Contains(err.Error(), c.text) || len(err.Error()) > 700:
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSameMeaning: what JSON leaves open changes nothing.
func TestSameMeaning(t *testing.T) {
	want, err := Digest([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(example), "\t", "  "); err != nil {
		t.Fatal(err)
	}
	var sorted any
	if err := json.Unmarshal([]byte(example), &sorted); err != nil {
		t.Fatal(err)
	}
	other, err := json.Marshal(sorted)
	if err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string]string{
		"indented":    indented.String(),
		"in order":    string(other),
		"escaped":     strings.Replace(example, "Hello", `\u0048\u0065llo`, 1),
		"more types":  strings.Replace(example, `"Person":[`, `"Unused":[{"name":"m","type":"Mail[3]"}],"Person":[`, 1),
		"small caps":  strings.Replace(example, "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC", "0x"+strings.Repeat("c", 40), 1),
		"hex chainId": strings.Replace(example, `"chainId":1`, `"chainId":"0x1"`, 1),
	} {
		if got, err := Digest([]byte(document)); err != nil || got != want {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	// A pair of surrogates and the character are the same text.
	a, errA := Digest([]byte(strings.Replace(example, "Bob!", "🔑", 1)))
	b, errB := Digest([]byte(strings.Replace(example, "Bob!", `\ud83d\udd11`, 1)))
	if errA != nil || errB != nil || a != b || a == want {
		t.Errorf("%x, %x, %v, %v", a, b, errA, errB)
	}
}

// costly are documents near the bounds that ask for as much work as they can.
func costly() map[string]string {
	fill := func(element string) string { // a list as long as the bound allows
		n := min((MaxSize-1000)/(len(element)+1), (maxValues-100)/(1+strings.Count(element, ":")))
		return "[" + strings.Repeat(element+",", n-1) + element + "]"
	}
	var types, value strings.Builder // types in a chain: each type's text has those below it
	pad := strings.Repeat("a", 100)
	for i := range maxTypes - 2 {
		fmt.Fprintf(&types, `"T%d":[{"name":"x","type":"T%d[]"},{"name":"%s","type":"bool"},{"name":"%sb","type":"bool"}],`, i, i+1, pad, pad)
	}
	fmt.Fprintf(&types, `"T%d":[{"name":"x","type":"bool"}]`, maxTypes-2)
	level := fmt.Sprintf(`{"%s":true,"%sb":false,"x":[`, pad, pad)
	const levels = 28 // two levels of JSON each
	for range levels {
		value.WriteString(level)
	}
	value.WriteString(strings.Repeat("]}", levels))
	chain := `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],` + types.String() + `},"primaryType":"T0","domain":{"name":"d"},"message":` + value.String() + `}`
	return map[string]string{
		"numbers": of("uint8[]", fill("0")),
		"lists":   of("uint8[][]", fill("[]")),
		"structs": of("N[]", fill(`{"y":1}`)),
		"strings": of("string[]", fill(`""`)),
		"bytes":   of("bytes", `"0x`+strings.Repeat("00", MaxSize/2-500)+`"`),
		"chain":   chain,
	}
}

// TestCostly: the greatest documents are signed, not refused.
func TestCostly(t *testing.T) {
	for name, document := range costly() {
		if _, err := Digest([]byte(document)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMemory: a short document does not make every node allocate without
// measure. Documents of half a megabyte took 71 MB each, and sixteen at once
// made a process of 600 MB.
func TestMemory(t *testing.T) {
	documents := costly()
	for name, element := range map[string]string{"as many numbers as fit": "0", "as many lists as fit": "[]", "as many objects as fit": `{"y":1}`} {
		n := (MaxSize - 1000) / (len(element) + 1)
		documents[name] = of("N[]", "["+strings.Repeat(element+",", n-1)+element+"]")
	}
	for name, document := range documents {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Digest([]byte(document))
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 12<<20 {
			t.Errorf("%s: %d bytes for a document of %d (%v)", name, got, len(document), err)
		}
	}
}

func BenchmarkCostly(b *testing.B) {
	for name, document := range costly() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Digest([]byte(document)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkExample(b *testing.B) {
	for b.Loop() {
		if _, err := Digest([]byte(example)); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzDigest: no input is a panic, and what is accepted means the same after
// another program has read and written it.
func FuzzDigest(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(of("int16[2][]", `[[1,"-2"],["0x3",4]]`)))
	f.Add([]byte(of("M[]", `[{"x":[]},{"x":[{"x":[]}]}]`)))
	f.Add([]byte(of("bytes4", `"0x01020304"`)))
	f.Add([]byte(of("string", `"\ud83d\udd11"`)))
	f.Add([]byte(`{"types":{},"primaryType":"","domain":{},"message":{}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		digest, err := Digest(document)
		if err != nil {
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(document))
		decoder.UseNumber()
		var v any
		if err := decoder.Decode(&v); err != nil {
			t.Fatalf("not JSON: %v", err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxSize { // < and > are escaped by Marshal
			return
		}
		if other, err := Digest(again); err != nil || other != digest {
			t.Fatalf("%x, then %x: %v", digest, other, err)
		}
	})
}
