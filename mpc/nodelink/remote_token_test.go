package nodelink

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

func sampleToken() *EnrolToken {
	t := &EnrolToken{NodeID: "eu-1", Domain: "eu", Region: "eu", Zone: "eu-a", Secret: secret.New(bytes.Repeat([]byte{0xA5}, 32)),
		Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	copy(t.Identity[:], bytes.Repeat([]byte{1}, 32))
	copy(t.Pin[:], bytes.Repeat([]byte{2}, 32))
	return t
}

func TestEnrolTokenRoundTrip(t *testing.T) {
	for _, zone := range []string{"eu-a", "", strings.Repeat("z", 48)} {
		want := sampleToken()
		want.Zone = zone
		got, err := ParseEnrolToken("  " + want.Encode() + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if got.NodeID != want.NodeID || got.Domain != want.Domain || got.Region != want.Region || got.Zone != zone ||
			got.Identity != want.Identity || got.Pin != want.Pin || !got.Expires.Equal(want.Expires) || !got.Secret.Equal(want.Secret) {
			t.Errorf("%v came back as %v", want, got)
		}
	}
}

func TestEnrolTokenHidesItsSecret(t *testing.T) {
	token := sampleToken()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, token); strings.Contains(text, "165") || strings.Contains(strings.ToLower(text), "a5a5") || !strings.Contains(text, "eu-1") {
			t.Errorf("%s prints %q", verb, text)
		}
	}
}

func TestEnrolTokenIsRefused(t *testing.T) {
	good := sampleToken().Encode()
	upper := sampleToken()
	upper.NodeID = "Eu"
	nameless := sampleToken()
	nameless.NodeID = ""
	for name, text := range map[string]string{
		"empty":            "",
		"prefix only":      tokenPrefix,
		"another version":  strings.Replace(good, "mpcnode1", "mpcnode2", 1),
		"cut off":          good[:len(good)-5],
		"too long":         tokenPrefix + strings.Repeat("A", 4096),
		"padding":          good + "==",
		"line break":       good[:40] + "\n" + good[40:],
		"more behind it":   good + "AAAA",
		"a name that none": upper.Encode(),
		"no name":          nameless.Encode(),
	} {
		if token, err := ParseEnrolToken(text); err == nil || token != nil {
			t.Errorf("%s: taken", name)
		} else if len(text) > 20 && strings.Contains(err.Error(), text[10:20]) {
			t.Errorf("%s: the error quotes the token", name)
		}
	}
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, tokenPrefix))
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		if _, err := ParseEnrolToken(tokenPrefix + base64.RawURLEncoding.EncodeToString(changed)); err == nil {
			t.Fatalf("byte %d changed: taken", i)
		}
	}
}

func FuzzParseEnrolToken(f *testing.F) {
	f.Add(sampleToken().Encode())
	f.Add(tokenPrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseEnrolToken(s)
		if err != nil {
			if token != nil {
				t.Fatal("a token and an error")
			}
			return
		}
		if token.Encode() != strings.TrimSpace(s) {
			t.Fatal("a token with two forms")
		}
	})
}

func sampleRequest() *nodepb.EnrolRequest {
	return &nodepb.EnrolRequest{NodeId: "eu-1", MountId: bytes.Repeat([]byte{3}, 16), Authority: bytes.Repeat([]byte{4}, 32),
		Peers: []*nodepb.Member{{NodeId: "local-1", Identity: bytes.Repeat([]byte{5}, 32)}, {NodeId: "local-2", Identity: bytes.Repeat([]byte{6}, 32)}}}
}

// TestProofsBindEverything changes one thing at a time.
func TestProofsBindEverything(t *testing.T) {
	key, a, b := []byte("secret"), [32]byte{1}, [32]byte{2}
	want := EnrolProof(key, sampleRequest(), a, b)
	if !SameProof(want, EnrolProof(key, sampleRequest(), a, b)) {
		t.Fatal("the proof is not stable")
	}
	for name, change := range map[string]func(*nodepb.EnrolRequest){
		"node":          func(r *nodepb.EnrolRequest) { r.NodeId = "eu-2" },
		"mount":         func(r *nodepb.EnrolRequest) { r.MountId[0]++ },
		"authority":     func(r *nodepb.EnrolRequest) { r.Authority[0]++ },
		"no authority":  func(r *nodepb.EnrolRequest) { r.Authority = nil },
		"peer":          func(r *nodepb.EnrolRequest) { r.Peers[1].Identity[0]++ },
		"peer's name":   func(r *nodepb.EnrolRequest) { r.Peers[0].NodeId = "local-3" },
		"peer less":     func(r *nodepb.EnrolRequest) { r.Peers = r.Peers[:1] },
		"order":         func(r *nodepb.EnrolRequest) { r.Peers[0], r.Peers[1] = r.Peers[1], r.Peers[0] },
		"a byte's move": func(r *nodepb.EnrolRequest) { r.NodeId += "\x03"; r.MountId = r.MountId[1:] },
	} {
		r := sampleRequest()
		change(r)
		if SameProof(want, EnrolProof(key, r, a, b)) {
			t.Errorf("%s: the same proof", name)
		}
	}
	if SameProof(want, EnrolProof(key, sampleRequest(), b, a)) || SameProof(want, EnrolProof([]byte("other"), sampleRequest(), a, b)) {
		t.Error("the proof does not depend on the pins or the secret")
	}
	if SameProof(nil, nil) || SameProof(want, want[:31]) {
		t.Error("an empty or short proof is taken")
	}
	reply := &nodepb.EnrolReply{Version: "v1", Identity: []byte{1}, Domain: "eu", Region: "r", Zone: "z"}
	answer := EnrolAnswerProof(key, reply, a, b)
	for name, change := range map[string]func(*nodepb.EnrolReply){
		"version":  func(r *nodepb.EnrolReply) { r.Version = "v2" },
		"identity": func(r *nodepb.EnrolReply) { r.Identity = []byte{2} },
		"domain":   func(r *nodepb.EnrolReply) { r.Domain, r.Region = "e", "ur" },
		"zone":     func(r *nodepb.EnrolReply) { r.Zone = "" },
	} {
		r := &nodepb.EnrolReply{Version: "v1", Identity: []byte{1}, Domain: "eu", Region: "r", Zone: "z"}
		change(r)
		if SameProof(answer, EnrolAnswerProof(key, r, a, b)) {
			t.Errorf("answer, %s: the same proof", name)
		}
	}
}
