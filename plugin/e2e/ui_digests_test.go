//go:build e2e

package e2e_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/mpc"
)

// interpreted has the page work out what is signed, for every combination.
const interpreted = `(async () => {
  const { interpret } = await import("./message.js");
  const { hex, unbase64 } = await import("./bytes.js");
  const out = [];
  for (const c of await (await fetch("../combinations")).json()) {
    try {
      const { digest } = await interpret(c.Algorithm, c.Type, c.Hash, unbase64(c.Input));
      out.push(digest ? hex(digest) : "none");
    } catch {
      out.push("refused");
    }
  }
  return out;
})()`

// TestPageDigests: for every algorithm, message type and hash, known ones and not, the
// page computes the digest that nodes sign, and refuses what they refuse.
func TestPageDigests(t *testing.T) {
	type combination struct {
		Algorithm mpc.Algorithm
		Type      mpc.MessageType
		Hash      mpc.HashAlgorithm
		Input     []byte
	}
	var all []combination
	inputs := [][]byte{{}, []byte("hello, Zoë"), []byte(typedData), []byte(strings.Replace(typedData, `"types"`, `"Types"`, 1))}
	for _, n := range []int{1, 31, 32, 33, 48, 64, 136, 1000} {
		inputs = append(inputs, []byte(strings.Repeat("\xa5", n)))
	}
	for _, algorithm := range []mpc.Algorithm{mpc.ECDSASecp256k1, mpc.ECDSAP256, mpc.BIP340Secp256k1, mpc.Ed25519, "ecdsa-p384", "", "constructor"} {
		for _, kind := range []mpc.MessageType{mpc.MessageRaw, mpc.MessageDigest, mpc.MessageEIP191, mpc.MessageEIP712, "", "toString"} {
			for _, hash := range []mpc.HashAlgorithm{mpc.HashSHA256, mpc.HashSHA384, mpc.HashSHA512, mpc.HashKeccak256, mpc.HashSHA256d, mpc.HashNone, "", "constructor"} {
				for _, input := range inputs {
					all = append(all, combination{algorithm, kind, hash, input})
				}
			}
		}
	}
	server := servePages(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(all) }))
	tab := openTab(t, harness.StartBrowser(t).WebSocket)
	var got []string
	if err := chromedp.Run(tab, chromedp.Navigate(localServer(server)+"/v1/mpc/ui/show"), chromedp.WaitVisible("h1"), awaited(interpreted, &got)); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(all) {
		t.Fatalf("%d answers for %d combinations", len(got), len(all))
	}
	count := map[string]int{}
	for i, c := range all {
		want, kind := "none", "none"
		signed, err := mpc.SigningInput(c.Algorithm, c.Type, c.Hash, c.Input)
		switch {
		case err != nil:
			want, kind = "refused", "refused"
		case c.Algorithm.IsECDSA() || c.Type == mpc.MessageDigest:
			want, kind = hex.EncodeToString(signed), "digest"
		}
		count[kind]++
		if got[i] != want {
			t.Errorf("%s: the page says %s, want %s", fmt.Sprintf("%q %q %q, %d bytes", c.Algorithm, c.Type, c.Hash, len(c.Input)), got[i], want)
		}
	}
	t.Logf("%v", count)
	if count["refused"] < 1000 || count["digest"] < 100 || count["none"] < 10 {
		t.Errorf("%v: the combinations are not what they should be", count)
	}
}
