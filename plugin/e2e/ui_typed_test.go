//go:build e2e

package e2e_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/mpc/eip712"
)

// typedRead has the page read documents. Of each that it takes it says the digest and
// every value that it shows, by its place; of others why not. failed is an error that
// is not a refusal, or a value that the view does not show.
const typedRead = `(async () => {
  const { read } = await import("./eip712.js");
  const { Unreadable } = await import("./json.js");
  const { typedView } = await import("./typed.js");
  const { h, plain } = await import("./view.js");
  const { hex, unbase64 } = await import("./bytes.js");
  const values = (n, path) => n.members ? n.members.flatMap((m) => values(m.node, path + "." + m.name))
    : n.items?.length ? n.items.flatMap((x, i) => values(x, path + "[" + i + "]")) : [{ path, n }];
  const documents = await (await fetch("../documents")).json();
  return documents.map((d) => {
    const start = performance.now();
    try {
      const doc = read(unbase64(d));
      const ms = performance.now() - start;
      const all = [...values(doc.domain, "domain"), ...values(doc.message, "message")];
      const shown = [...typedView(doc, h("p")).querySelectorAll("dd, li")].filter((e) => !e.querySelector("dl, ol")).map((e) => e.textContent);
      const wrong = all.length !== shown.length ? all.length + " values, " + shown.length + " shown" :
        all.map(({ path, n }, i) => { const s = n.items ? "an empty list" : n.value === "" ? "an empty text" : n.value === "0x" && n.kind !== "string" ? "no bytes" : plain(n.value, true);
          return shown[i] === s + (n.written ? " written as " + n.written : "") ? "" : path + " is shown as " + shown[i]; }).find((s) => s) ?? "";
      return { digest: hex(doc.digest), values: all.map(({ path, n }) => path + " = " + (n.items ? "[]" : n.written ?? n.value)).sort(), failed: wrong, ms };
    } catch (err) {
      return err instanceof Unreadable ? { refused: err.message } : { failed: String(err.stack) };
    }
  });
})()`

// typedAnswer is what the page says of one document.
type typedAnswer struct {
	Digest, Refused, Failed string
	Values                  []string
	MS                      float64
}

// readByPage gives documents to the page's code, in the browser.
func readByPage(t *testing.T, documents [][]byte) []typedAnswer {
	t.Helper()
	server := servePages(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(documents) }))
	tab := openTab(t, harness.StartBrowser(t).WebSocket)
	var answers []typedAnswer
	if err := chromedp.Run(tab, chromedp.Navigate(localServer(server)+"/v1/mpc/ui/show"), chromedp.WaitVisible("h1"), awaited(typedRead, &answers)); err != nil {
		t.Fatal(err)
	}
	if len(answers) != len(documents) {
		t.Fatalf("%d answers for %d documents", len(answers), len(documents))
	}
	return answers
}

// agree compares the page with package eip712, and returns how many both take. Of what
// both take, everything in domain and message has to be shown, and nothing else.
func agree(t *testing.T, name func(int) string, documents [][]byte) (taken int) {
	t.Helper()
	for i, a := range readByPage(t, documents) {
		digest, err := eip712.Digest(documents[i])
		want := hex.EncodeToString(digest[:])
		short := string(documents[i][:min(len(documents[i]), 3000)])
		switch {
		case a.Failed != "":
			t.Errorf("%s: the page fails: %s\n%s", name(i), a.Failed, short)
		case err != nil && a.Digest != "":
			t.Errorf("%s: the page takes what nodes refuse (%v)\n%s", name(i), err, short)
		case err == nil && a.Digest == "":
			t.Errorf("%s: the page refuses (%s) what nodes take\n%s", name(i), a.Refused, short)
		case err == nil && a.Digest != want:
			t.Errorf("%s: the page computes %s, nodes %s\n%s", name(i), a.Digest, want, short)
		case err == nil:
			taken++
			if values := valuesOf(t, documents[i]); !slices.Equal(a.Values, values) {
				t.Errorf("%s: the page shows\n%q, the document has\n%q", name(i), a.Values, values)
			}
			if a.MS > 500 {
				t.Logf("%s: %d bytes took the page %.0f ms", name(i), len(documents[i]), a.MS)
			}
		case a.Refused == "":
			t.Errorf("%s: refused without a word", name(i))
		}
	}
	return taken
}

// valuesOf lists what domain and message of a document say, as encoding/json reads it.
func valuesOf(t *testing.T, document []byte) []string {
	t.Helper()
	var top map[string]any
	d := json.NewDecoder(strings.NewReader(string(document)))
	d.UseNumber()
	if err := d.Decode(&top); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), x)
			}
			if len(v) == 0 {
				out = append(out, path+" = []")
			}
		default:
			out = append(out, fmt.Sprintf("%s = %v", path, v))
		}
	}
	walk("domain", top["domain"])
	walk("message", top["message"])
	slices.SortFunc(out, compareUTF16)
	return out
}

// compareUTF16 is the order of texts in JavaScript.
func compareUTF16(a, b string) int {
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

// TestPageTypedData: the page's reader of typed data takes what package eip712 takes,
// computes the same digests and refuses the rest. The documents are those of that
// package's golden files, and the greatest that are taken.
func TestPageTypedData(t *testing.T) {
	var vectors struct {
		Vectors []struct{ Name, Document, Digest string }
	}
	var golden []struct {
		Name, Document, Digest string
		Base64                 []byte
	}
	for file, into := range map[string]any{"eip712.json": &vectors, "page.json": &golden} {
		text, err := os.ReadFile(filepath.Join("..", "..", "mpc", "eip712", "testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	var documents [][]byte
	add := func(name string, document []byte) {
		names, documents = append(names, name), append(documents, document)
	}
	for _, v := range vectors.Vectors {
		add(v.Name, []byte(v.Document))
	}
	for _, g := range golden {
		add(g.Name, append([]byte(g.Document), g.Base64...)) // one of them is empty
	}
	if len(documents) < 500 {
		t.Fatalf("%d documents: the test looks at the wrong place", len(documents))
	}
	great := greatDocuments()
	atBound := map[string][2]int{} // refused and taken
	for _, name := range slices.Sorted(maps.Keys(great)) {
		add(name, []byte(great[name]))
		for _, bound := range []string{" values", " of names", " types"} {
			if strings.HasSuffix(name, bound) {
				n := atBound[bound]
				if _, err := eip712.Digest([]byte(great[name])); err == nil {
					n[1]++
				} else {
					n[0]++
				}
				atBound[bound] = n
			}
		}
	}
	t.Logf("refused and taken at the bounds: %v", atBound)
	for _, bound := range []string{" values", " of names", " types"} {
		if n := atBound[bound]; n[0] == 0 || n[1] == 0 {
			t.Errorf("%s: %d refused, %d taken: the documents are not at the bound", bound, n[0], n[1])
		}
	}
	taken := agree(t, func(i int) string { return names[i] }, documents)
	t.Logf("%d documents, both take %d", len(documents), taken)
	if taken < 300 || len(documents)-taken < 280 {
		t.Errorf("of %d documents both take %d: the test looks at the wrong place", len(documents), taken)
	}
}

// greatDocuments are at and behind the bounds, or ask for as much work as they can.
func greatDocuments() map[string]string {
	of := func(typ, value string) string {
		return fmt.Sprintf(`{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":%q}],"N":[{"name":"y","type":"uint8"}]},"primaryType":"M","domain":{"name":"d"},"message":{"x":%s}}`, typ, value)
	}
	many := func(n int, f func(int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = f(i)
		}
		return strings.Join(all, ",")
	}
	same := func(s string) func(int) string { return func(int) string { return s } }
	small := of("bool", "true")
	const others = 19 // values of such a document beside the elements of its list
	pad := strings.Repeat("a", 100)
	chain := func(levels int) string {
		level := fmt.Sprintf(`{"%s":true,"%sb":false,"x":[`, pad, pad)
		return `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],` + many(126, func(i int) string {
			return fmt.Sprintf(`"T%d":[{"name":"x","type":"T%d[]"},{"name":"%s","type":"bool"},{"name":"%sb","type":"bool"}]`, i, i+1, pad, pad)
		}) + `,"T126":[{"name":"x","type":"bool"}]},"primaryType":"T0","domain":{"name":"d"},"message":` + strings.Repeat(level, levels) + strings.Repeat("]}", levels) + `}`
	}
	types := func(n int) string {
		return strings.Replace(small, `"N":[`, many(n-3, func(i int) string { return fmt.Sprintf(`"T%d":[{"name":"a","type":"bool"}]`, i) })+`,"N":[`, 1)
	}
	names := func(n int) string { // of so many characters beside those of the small one, which are 57
		return strings.Replace(small, `"N":[`, `"N":[`+many(n/128, func(i int) string {
			return fmt.Sprintf(`{"name":"n%s%03d","type":"bool"}`, strings.Repeat("n", 120), i)
		})+
			fmt.Sprintf(`,{"name":"%s","type":"bool"},`, strings.Repeat("m", n%128+60)), 1)
	}
	out := map[string]string{
		"as long as can be": small + strings.Repeat(" ", eip712.MaxSize-len(small)), "longer": small + strings.Repeat(" ", eip712.MaxSize-len(small)+1),
		"a long text": of("string", `"`+strings.Repeat("é\\n", 100_000)+`"`), "long bytes": of("bytes", `"0x`+strings.Repeat("0a", 250_000)+`"`), "a long number": of("uint256", strings.Repeat("9", 300_000)),
		"numbers": of("uint8[]", "["+many(10_000-others, same("0"))+"]"), "lists": of("uint8[][]", "["+many(9_900, same("[]"))+"]"), "structs": of("N[]", "["+many(4_950, same(`{"y":1}`))+"]"), "texts": of("string[]", "["+many(9_900, same(`""`))+"]"),
		"brackets": strings.Repeat("[", eip712.MaxSize/2) + strings.Repeat("]", eip712.MaxSize/2), "objects": strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000),
		"a chain of types": chain(28), "a longer chain": chain(32), "128 types": types(128), "129 types": types(129),
	}
	for i := range 4 { // around the bound, whichever side the count falls on
		out[fmt.Sprintf("%d values", 9_999+i)] = of("uint8[]", "["+many(9_999+i-others, same("0"))+"]")
	}
	for n := 64<<10 - 300; n <= 64<<10+100; n += 10 {
		out[fmt.Sprintf("%d of names", n)] = names(n)
	}
	return out
}

// TestPageTypedDataRandom does the same with random documents and changed ones.
// MPC_TYPED_SEED takes another seed than the one that is always tried.
func TestPageTypedDataRandom(t *testing.T) {
	seed := uint64(712)
	if s := os.Getenv("MPC_TYPED_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MPC_TYPED_SEED=%d", seed)
	r := &typedRandom{Rand: rand.New(rand.NewPCG(seed, 0))}
	var documents [][]byte
	const whole, mutants = 300, 4 // of each
	for range whole {
		document := r.document()
		if _, err := eip712.Digest([]byte(document.String())); err != nil {
			t.Fatalf("a random document is refused: %v\n%s", err, document)
		}
		documents = append(documents, []byte(document.String()))
		for range mutants {
			documents = append(documents, []byte(r.mutant(document)))
		}
	}
	taken := agree(t, func(i int) string { return fmt.Sprintf("seed %d, document %d", seed, i) }, documents)
	t.Logf("%d documents, both take %d", len(documents), taken)
	if taken < whole+100 || len(documents)-taken < 2*whole {
		t.Errorf("of %d documents both take %d: the changes are too many or too few", len(documents), taken)
	}
}
