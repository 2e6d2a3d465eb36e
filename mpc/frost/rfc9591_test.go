package frost

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/edwards25519"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// hexBytes is a hex string in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// rfcVector is testdata/vectors/rfc9591-ed25519.json.
type rfcVector struct {
	List         []mpc.Index            `json:"participant_list"`
	SecretKey    hexBytes               `json:"group_secret_key"`
	PublicKey    hexBytes               `json:"group_public_key"`
	Message      hexBytes               `json:"message"`
	Coefficients []hexBytes             `json:"share_polynomial_coefficients"`
	Shares       map[mpc.Index]hexBytes `json:"participant_shares"`
	Signers      []rfcSigner            `json:"signers"`
	Signature    hexBytes               `json:"sig"`
}

type rfcSigner struct {
	Index             mpc.Index `json:"identifier"`
	HidingRandom      hexBytes  `json:"hiding_nonce_randomness"`
	BindingRandom     hexBytes  `json:"binding_nonce_randomness"`
	Hiding            hexBytes  `json:"hiding_nonce"`
	Binding           hexBytes  `json:"binding_nonce"`
	HidingCommitment  hexBytes  `json:"hiding_nonce_commitment"`
	BindingCommitment hexBytes  `json:"binding_nonce_commitment"`
	FactorInput       hexBytes  `json:"binding_factor_input"`
	Factor            hexBytes  `json:"binding_factor"`
	Share             hexBytes  `json:"sig_share"`
}

func loadRFC(t testing.TB) rfcVector {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", "rfc9591-ed25519.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v rfcVector
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Signers) != 2 || len(v.Shares) != 3 || len(v.Signature) != 64 {
		t.Fatal("the vector is incomplete")
	}
	return v
}

func littleScalar(t testing.TB, b []byte) *edwards25519.Scalar {
	t.Helper()
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func same(t *testing.T, what string, got []byte, want hexBytes) {
	t.Helper()
	if len(want) == 0 || !bytes.Equal(got, want) {
		t.Errorf("%s: %x, want %x", what, got, []byte(want))
	}
}

// TestRFC9591Functions drives every function by the RFC's intermediate values.
func TestRFC9591Functions(t *testing.T) {
	v := loadRFC(t)
	key := littleScalar(t, v.SecretKey)
	same(t, "public key", new(edwards25519.Point).ScalarBaseMult(key).Bytes(), v.PublicKey)
	for i, share := range v.Shares {
		x := new(edwards25519.Scalar).MultiplyAdd(littleScalar(t, v.Coefficients[0]), identifier(i), key)
		same(t, "share", x.Bytes(), share)
	}
	sum := new(edwards25519.Scalar)
	for _, i := range v.List {
		sum.MultiplyAdd(interpolating(i, v.List), littleScalar(t, v.Shares[i]), sum)
	}
	same(t, "interpolated key", sum.Bytes(), v.SecretKey)

	var list []commitment
	own := map[mpc.Index]nonces{}
	for _, s := range v.Signers {
		x := littleScalar(t, v.Shares[s.Index])
		n := nonces{nonceGenerate([32]byte(s.HidingRandom), x), nonceGenerate([32]byte(s.BindingRandom), x)}
		same(t, "hiding nonce", n.hiding.Bytes(), s.Hiding)
		same(t, "binding nonce", n.binding.Bytes(), s.Binding)
		c := commit(s.Index, n)
		same(t, "hiding commitment", c.hiding.Bytes(), s.HidingCommitment)
		same(t, "binding commitment", c.binding.Bytes(), s.BindingCommitment)
		back, err := parseCommitment(s.Index, c.encoded)
		if err != nil || back.hiding.Equal(c.hiding) != 1 || back.binding.Equal(c.binding) != 1 {
			t.Errorf("commitment does not come back: %v", err)
		}
		own[s.Index], list = n, append(list, c)
	}
	factors := bindingFactors(v.PublicKey, list, v.Message)
	for k, s := range v.Signers {
		input := slices.Concat(v.PublicKey, hash("msg", v.Message), hash("com", encodeCommitments(list)), identifier(s.Index).Bytes())
		same(t, "binding factor input", input, s.FactorInput)
		same(t, "binding factor", factors[k].Bytes(), s.Factor)
	}
	group, parts := groupCommitment(list, factors)
	c := challenge(group.Bytes(), v.PublicKey, v.Message)
	var shares []*edwards25519.Scalar
	for k, s := range v.Signers {
		x := littleScalar(t, v.Shares[s.Index])
		lambda := interpolating(s.Index, v.List)
		z := signatureShare(own[s.Index], factors[k], lambda, x, c)
		same(t, "signature share", z.Bytes(), s.Share)
		public := new(edwards25519.Point).ScalarBaseMult(x)
		if !verifyShare(z, parts[k], public, lambda, c) {
			t.Errorf("share %d does not verify", s.Index)
		}
		for name, wrong := range map[string]bool{
			"other share":     verifyShare(new(edwards25519.Scalar).Add(z, identifier(1)), parts[k], public, lambda, c),
			"other part":      verifyShare(z, parts[1-k], public, lambda, c),
			"other key":       verifyShare(z, parts[k], edwards25519.NewGeneratorPoint(), lambda, c),
			"other challenge": verifyShare(z, parts[k], public, lambda, identifier(7)),
			"other λ":         verifyShare(z, parts[k], public, identifier(7), c),
		} {
			if wrong {
				t.Errorf("share %d verifies with the %s", s.Index, name)
			}
		}
		shares = append(shares, z)
	}
	same(t, "signature", aggregate(group, shares), v.Signature)
}

// TestRFC9591Parties runs whole parties on the RFC's randomness: what they send
// and what comes out is the RFC's, byte for byte.
func TestRFC9591Parties(t *testing.T) {
	v := loadRFC(t)
	record := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3,
		PublicKey: v.PublicKey, Epoch: 1, EpochID: mpc.EpochID{1},
		RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
	for i := mpc.Index(1); i <= 3; i++ {
		record.PublicShares = append(record.PublicShares, new(edwards25519.Point).ScalarBaseMult(littleScalar(t, v.Shares[i])).Bytes())
	}
	if err := CheckRecord(record); err != nil {
		t.Fatal(err)
	}
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, s := range v.Signers {
		share := bytes.Clone(v.Shares[s.Index])
		slices.Reverse(share)
		p, err := NewSign(SignConfig{Self: s.Index, Signers: v.List, Record: record, Share: secret.New(share), Message: v.Message, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		p.(*ed25519Party).random = bytes.NewReader(slices.Concat(s.HidingRandom, s.BindingRandom))
		parties[s.Index] = p
	}
	sent := 0
	if err := route(t, parties, func(_ mpc.Index, m mpc.Message) *mpc.Message {
		s := v.Signers[slices.Index(v.List, m.From)]
		sent++
		if m.Round == roundCommit {
			same(t, "commitments", m.Data, slices.Concat(s.HidingCommitment, s.BindingCommitment))
		} else {
			same(t, "share", m.Data, s.Share)
		}
		return &m
	}); err != nil {
		t.Fatal(err)
	}
	if sent != 4 {
		t.Errorf("%d messages", sent)
	}
	for _, i := range v.List {
		sig, err := parties[i].(Signer).Result()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "signature", sig.Bytes, v.Signature)
	}
}
