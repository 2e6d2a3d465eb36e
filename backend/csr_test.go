package backend

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// readCSR reads a request from an answer and checks it as a CA does.
func readCSR(t *testing.T, answer map[string]any) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode([]byte(answer["csr"].(string)))
	if block == nil || len(rest) > 0 || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("no PEM: %v", answer)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if public, _ := pem.Decode([]byte(answer["public_key"].(string))); public == nil || !bytes.Equal(public.Bytes, der) {
		t.Errorf("the request has another key than the answer: %v", answer)
	}
	return r
}

func TestCSR(t *testing.T) {
	m := configured(t)
	for name, c := range map[string]struct {
		alg  string
		want x509.SignatureAlgorithm
	}{
		"web":  {"ecdsa-p256", x509.ECDSAWithSHA256},
		"edge": {"ed25519", x509.PureEd25519},
	} {
		account := m.create(name, c.alg)
		answer := m.must(logical.UpdateOperation, "accounts/"+name+"/csr", map[string]any{
			"common_name":         "www.example.com",
			"organization":        "Example, Inc.",
			"organizational_unit": []string{"Payments", "Zürich & Bern"},
			"country":             "CH",
			"locality":            "Zürich",
			"province":            "ZH",
			"alt_names":           "www.example.com,*.example.com,ops@example.com,xn--bcher-kva.example",
			"ip_sans":             []string{"192.0.2.7", "2001:db8::7", "::ffff:192.0.2.8"},
			"uri_sans":            "spiffe://example.org/web,urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
		})
		r := readCSR(t, answer)
		if answer["public_key"] != account["public_key"] || answer["share_epoch"] != account["share_epoch"] || answer["session_id"] == "" {
			t.Errorf("%s: %v", name, answer)
		}
		if r.SignatureAlgorithm != c.want || r.Version != 0 {
			t.Errorf("%s: signed with %v", name, r.SignatureAlgorithm)
		}
		s := r.Subject
		if s.CommonName != "www.example.com" || !slices.Equal(s.Organization, []string{"Example, Inc."}) ||
			!slices.Equal(s.OrganizationalUnit, []string{"Payments", "Zürich & Bern"}) || !slices.Equal(s.Country, []string{"CH"}) ||
			!slices.Equal(s.Locality, []string{"Zürich"}) || !slices.Equal(s.Province, []string{"ZH"}) {
			t.Errorf("%s: subject %+v", name, s)
		}
		if !slices.Equal(r.DNSNames, []string{"www.example.com", "*.example.com", "xn--bcher-kva.example"}) ||
			!slices.Equal(r.EmailAddresses, []string{"ops@example.com"}) ||
			fmt.Sprint(r.IPAddresses) != "[192.0.2.7 2001:db8::7 192.0.2.8]" ||
			fmt.Sprint(r.URIs) != "[spiffe://example.org/web urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6]" {
			t.Errorf("%s: names %v %v %v %v", name, r.DNSNames, r.EmailAddresses, r.IPAddresses, r.URIs)
		}
		if r = readCSR(t, m.must(logical.UpdateOperation, "accounts/"+name+"/csr", map[string]any{"common_name": "a"})); r.Subject.String() != "CN=a" || len(r.Extensions) != 0 {
			t.Errorf("%s: %v %v", name, r.Subject, r.Extensions)
		}
		if r = readCSR(t, m.must(logical.UpdateOperation, "accounts/"+name+"/csr", map[string]any{"uri_sans": "spiffe://example.org/web"})); r.Subject.String() != "" || len(r.URIs) != 1 {
			t.Errorf("%s: %v %v", name, r.Subject, r.URIs)
		}
	}
}

// TestCSRUsesPresignatures: nodes get the message, so they may.
func TestCSRUsesPresignatures(t *testing.T) {
	m := configured(t)
	account := m.create("web", "ecdsa-p256")
	var id mpc.AccountID
	copy(id[:], unhexed(t, account["id"].(string)))
	hash := [32]byte(unhexed(t, account["record_hash"].(string)))
	m.fake.mu.Lock()
	m.fake.stock[id] = [][32]byte{hash}
	m.fake.mu.Unlock()
	readCSR(t, m.must(logical.UpdateOperation, "accounts/web/csr", map[string]any{"common_name": "a"}))
	if left := m.fake.Presignatures(id, hash); left != 0 {
		t.Error("the presignature was not used")
	}
}

func TestCSRBadInput(t *testing.T) {
	m := configured(t)
	fourAccounts(m)
	m.fake.signErr = errors.New("nodes must not be asked")
	many := make([]string, 129)
	for i := range many {
		many[i] = fmt.Sprintf("h%d.example.com", i)
	}
	long := strings.Repeat("a", 63) + "."
	for i, c := range []struct {
		fields map[string]any
		text   string
	}{
		{map[string]any{}, "names nobody"},
		{map[string]any{"organization": "Example"}, "names nobody"},
		{map[string]any{"alt_names": ""}, "names nobody"},
		{map[string]any{"common_name": ""}, "empty"},
		{map[string]any{"common_name": " a"}, "spaces around"},
		{map[string]any{"common_name": "a\x00b"}, "control characters"},
		{map[string]any{"common_name": "a\nb"}, "control characters"},
		{map[string]any{"common_name": strings.Repeat("ü", 65)}, "65 characters, at most 64"},
		{map[string]any{"common_name": "a", "organization": []string{""}}, "organization \"\" is empty"},
		{map[string]any{"common_name": "a", "organization": strings.Repeat("a", 65)}, "at most 64"},
		{map[string]any{"common_name": "a", "organizational_unit": strings.Repeat("a", 65)}, "at most 64"},
		{map[string]any{"common_name": "a", "organization": []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}}, "9 values, at most 8"},
		{map[string]any{"common_name": "a", "locality": strings.Repeat("a", 129)}, "at most 128"},
		{map[string]any{"common_name": "a", "province": strings.Repeat("a", 129)}, "at most 128"},
		{map[string]any{"common_name": "a", "country": "Germany"}, "at most 2"},
		{map[string]any{"common_name": "a", "country": "de"}, "capital letters"},
		{map[string]any{"common_name": "a", "country": "D"}, "capital letters"},
		{map[string]any{"alt_names": "192.0.2.1"}, "send it in ip_sans"},
		{map[string]any{"alt_names": "::1"}, "send it in ip_sans"},
		{map[string]any{"alt_names": "a b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a..b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a.b."}, "neither a DNS name"},
		{map[string]any{"alt_names": "-a.b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a-.b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "*"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a.*.b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a*.b"}, "neither a DNS name"},
		{map[string]any{"alt_names": "a_b.example"}, "neither a DNS name"},
		{map[string]any{"alt_names": "bücher.example"}, "neither a DNS name"},
		{map[string]any{"alt_names": strings.Repeat("a", 64) + ".example"}, "neither a DNS name"},
		{map[string]any{"alt_names": long + long + long + long}, "neither a DNS name"},
		{map[string]any{"alt_names": "ops@"}, "not an e-mail address"},
		{map[string]any{"alt_names": "@example.com"}, "not an e-mail address"},
		{map[string]any{"alt_names": "Ops <ops@example.com>"}, "not an e-mail address"},
		{map[string]any{"alt_names": "öps@example.com"}, "not an e-mail address"},
		{map[string]any{"alt_names": "a@b@c"}, "not an e-mail address"},
		{map[string]any{"alt_names": strings.Repeat("a", 65) + "@example.com"}, "not an e-mail address"},
		{map[string]any{"alt_names": "ops@*.example.com"}, "not an e-mail address"},
		{map[string]any{"alt_names": many}, "129 alternative names, at most 128"},
		{map[string]any{"ip_sans": "example.com"}, "not an IP address"},
		{map[string]any{"ip_sans": "192.0.2.0/24"}, "not an IP address"},
		{map[string]any{"ip_sans": "fe80::1%eth0"}, "not an IP address"},
		{map[string]any{"uri_sans": "example.com/a"}, "not a URI"},
		{map[string]any{"uri_sans": "spiffe:"}, "not a URI"},
		{map[string]any{"uri_sans": "https://a b/"}, "not a URI"},
		{map[string]any{"uri_sans": "https://exa_mple.com/"}, "not a URI"},
		{map[string]any{"uri_sans": "https://example.com/ü"}, "not a URI"},
		{map[string]any{"uri_sans": "https://example.com/" + strings.Repeat("a", 2048)}, "not a URI"},
		{map[string]any{"common_name": "a", "dns_sans": "a"}, "unknown field dns_sans"},
		{map[string]any{"common_name": "a", "derivation_path": "m/0"}, "unknown field derivation_path"},
		{map[string]any{"csr": ""}, "in PEM"},
		{map[string]any{"csr": "hello"}, "in PEM"},
		{map[string]any{"csr": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}, "in PEM"},
		{map[string]any{"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}, "cannot be read"},
		{map[string]any{"csr": strings.Repeat("a", 64<<10+1)}, "longer than 64 KiB"},
	} {
		m.fails(logical.UpdateOperation, "accounts/"+[]string{"carol", "dave"}[i%2]+"/csr", c.fields, 400, c.text)
	}
	good := map[string]any{"common_name": "a"}
	m.fails(logical.UpdateOperation, "accounts/alice/csr", good, 400, "bip340-secp256k1 keys have no certificate requests")
	m.fails(logical.UpdateOperation, "accounts/bob/csr", good, 400, "ecdsa-secp256k1 keys have no certificate requests")
	m.fails(logical.UpdateOperation, "accounts/nobody/csr", good, 404, "no account")
	m.fails(logical.UpdateOperation, "accounts/.x/csr", good, 400, "not an account name")
}

// template returns the PEM of a request signed by a key of its own.
func template(t *testing.T, r *x509.CertificateRequest) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestCSRTemplate(t *testing.T) {
	m := configured(t)
	for name, alg := range map[string]string{"web": "ecdsa-p256", "edge": "ed25519"} {
		account := m.create(name, alg)
		spiffe, _ := url.Parse("spiffe://example.org/web")
		keyUsage := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 7, 128}}
		private := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}}
		text := template(t, &x509.CertificateRequest{
			// An attribute that x509 has no field for, and an odd order.
			Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "first"},
				{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: "uid7"},
				{Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: "CH"},
			}},
			DNSNames: []string{"www.example.com"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7)}, URIs: []*url.URL{spiffe},
			ExtraExtensions: []pkix.Extension{keyUsage, private, {Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: []byte{4, 2, 1, 2}}},
			Attributes: []pkix.AttributeTypeAndValueSET{{
				Type:  asn1.ObjectIdentifier{1, 2, 3, 4},
				Value: [][]pkix.AttributeTypeAndValue{{{Type: asn1.ObjectIdentifier{1, 2, 3, 5}, Value: "x"}}},
			}},
		})
		resp, status, msg := m.do(logical.UpdateOperation, "accounts/"+name+"/csr", map[string]any{"csr": text})
		if status != 200 {
			t.Fatal(status, msg)
		}
		block, _ := pem.Decode([]byte(text))
		from, _ := x509.ParseCertificateRequest(block.Bytes)
		r := readCSR(t, resp.Data)
		if resp.Data["public_key"] != account["public_key"] {
			t.Error("another key")
		}
		if !bytes.Equal(r.RawSubject, from.RawSubject) {
			t.Errorf("subject %v, want %v", r.Subject, from.Subject)
		}
		want := slices.DeleteFunc(from.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectKeyID) })
		if fmt.Sprint(r.Extensions) != fmt.Sprint(want) || len(want) != 3 {
			t.Errorf("extensions %v, want %v", r.Extensions, want)
		}
		if said := strings.Join(resp.Warnings, "\n"); len(resp.Warnings) != 2 || !strings.Contains(said, "subject key identifier") || !strings.Contains(said, "1.2.3.4") {
			t.Errorf("warnings %q", resp.Warnings)
		}

		// Nobody looks at the template's signature.
		block.Bytes[len(block.Bytes)-1] ^= 1
		block.Type = "NEW CERTIFICATE REQUEST"
		broken := "\n" + string(pem.EncodeToMemory(block)) + "\n"
		readCSR(t, m.must(logical.UpdateOperation, "accounts/"+name+"/csr", map[string]any{"csr": broken}))

		for _, c := range []struct {
			fields map[string]any
			text   string
		}{
			{map[string]any{"csr": text, "common_name": "a"}, "leave out common_name"},
			{map[string]any{"csr": text, "alt_names": []string{}}, "leave out alt_names"},
			{map[string]any{"csr": text + text}, "one PEM block"},
			{map[string]any{"csr": text + "-----"}, "one PEM block"},
			{map[string]any{"csr": "Certificate Request:\n" + text}, "in PEM"},
			{map[string]any{"csr": strings.Replace(text, "REQUEST-----\n", "REQUEST-----\nA: b\n\n", 1)}, "without headers"},
			{map[string]any{"csr": template(t, &x509.CertificateRequest{})}, "names nobody"},
			{map[string]any{"csr": template(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "www.example.com\x00.example.org"}})}, "control characters"},
			{map[string]any{"csr": template(t, &x509.CertificateRequest{DNSNames: []string{"www.example.com\x00.example.org"}})}, "control characters"},
			{map[string]any{"csr": template(t, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{keyUsage}})}, "names nobody"},
		} {
			m.fails(logical.UpdateOperation, "accounts/"+name+"/csr", c.fields, 400, c.text)
		}
	}
}

// TestCSRFailures: what nodes say is answered as sign/ does it.
func TestCSRFailures(t *testing.T) {
	m := configured(t)
	m.create("web", "ecdsa-p256")
	request := map[string]any{"common_name": "a"}
	m.fake.signErr = fmt.Errorf("signing: %w", &pool.AuxPendingError{Nodes: []pool.AuxProgress{{NodeID: "local-2", Progress: 40}}})
	m.fails(logical.UpdateOperation, "accounts/web/csr", request, 409, "local-2 40 %")
	m.fake.signErr = fmt.Errorf("signing: %w", &pool.TooFewNodesError{})
	m.fails(logical.UpdateOperation, "accounts/web/csr", request, 503, "see nodes/")
	m.fake.signErr = nil
	readCSR(t, m.must(logical.UpdateOperation, "accounts/web/csr", request))
}

// TestWrongSignatureMakesNoCSR: whatever comes back from signing.
func TestWrongSignatureMakesNoCSR(t *testing.T) {
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a"}}
	for _, alg := range []mpc.Algorithm{mpc.ECDSAP256, mpc.Ed25519} {
		own, encoded, err := newFakeKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		other, _, err := newFakeKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		public, err := publicKey(alg, encoded)
		if err != nil {
			t.Fatal(err)
		}
		sign := func(key *fakeKey, message []byte) ([]byte, error) {
			if alg == mpc.Ed25519 {
				return ed25519.Sign(key.ed, message), nil
			}
			h := crypto.SHA256.New()
			h.Write(message)
			return ecdsa.SignASN1(rand.Reader, key.p256, h.Sum(nil))
		}
		for name, c := range map[string]struct {
			by   func(message []byte) ([]byte, error)
			good bool
		}{
			"own":           {func(b []byte) ([]byte, error) { return sign(own, b) }, true},
			"other key":     {func(b []byte) ([]byte, error) { return sign(other, b) }, false},
			"other message": {func(b []byte) ([]byte, error) { return sign(own, b[1:]) }, false},
			"empty":         {func([]byte) ([]byte, error) { return nil, nil }, false},
			"error":         {func([]byte) ([]byte, error) { return nil, errors.New("refused") }, false},
		} {
			text, err := makeCSR(request, &csrSigner{public: public, sign: c.by})
			if (err == nil) != c.good || (text != "") != c.good {
				t.Errorf("%s, %s: %q %v", alg, name, text, err)
			}
			if name == "error" && !strings.Contains(err.Error(), "refused") {
				t.Errorf("%s: the cause is lost: %v", alg, err)
			}
		}
	}
	if _, err := (&csrSigner{}).Sign(nil, nil, crypto.SHA256); err == nil {
		t.Error("a digest was signed")
	}
}

func FuzzCSRTemplate(f *testing.F) {
	f.Add([]byte{0x30, 0})
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	for _, r := range []*x509.CertificateRequest{
		{Subject: pkix.Name{CommonName: "a"}},
		{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{{Id: oidSubjectKeyID, Value: []byte{4, 1, 1}}}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, _, err := parseTemplate(string(pem.EncodeToMemory(&pem.Block{Type: csrPEM, Bytes: der})))
		var refused *fault
		if err == nil {
			err = tryCSR(r)
		}
		if err != nil && (!errors.As(err, &refused) || refused.status != 400) {
			t.Errorf("%v", err)
		}
	})
}
