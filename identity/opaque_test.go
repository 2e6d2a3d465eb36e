package identity

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/bytemare/opaque"

	"vault-plugin-secrets-mpc/secret"
)

func loginSecret(text string) *secret.Bytes {
	b := make([]byte, 32)
	copy(b, text)
	return secret.New(b)
}

// register runs a whole registration.
func registered(t *testing.T, k *ServerKeys, text string, id ID, kdf KDF) (registration []byte, export *secret.Bytes) {
	t.Helper()
	r, request, err := StartRegistration(loginSecret(text), id, kdf)
	if err != nil {
		t.Fatal(err)
	}
	response, err := k.Register(id, request)
	if err != nil {
		t.Fatal(err)
	}
	if len(request) != RegistrationRequestSize || len(response) != RegistrationResponseSize {
		t.Fatalf("messages of %d and %d bytes", len(request), len(response))
	}
	registration, export, public, err := r.Finish(response)
	if err != nil {
		t.Fatal(err)
	}
	if len(registration) != RegistrationSize || export.Len() != ExportKeySize || !bytes.Equal(public, k.PublicKey()) {
		t.Fatal("the registration is not of the documented form")
	}
	if err := CheckRegistration(registration, kdf); err != nil {
		t.Fatal(err)
	}
	return registration, export
}

func TestOPAQUE(t *testing.T) {
	k, id := NewServerKeys(), ID{7}
	registration, export := registered(t, k, "right", id, DefaultKDF())
	marshalled := k.Marshal()
	again, err := ParseServerKeys(marshalled) // another process of the same mount
	if err != nil || !again.Marshal().Equal(marshalled) || !bytes.Equal(again.PublicKey(), k.PublicKey()) {
		t.Fatal("server keys do not survive their encoding:", err)
	}
	l, ke1, err := StartLogin(loginSecret("right"), id, DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	ke2, mac, server, err := again.Login(id, registration, ke1)
	if err != nil || len(ke1) != KE1Size || len(ke2) != KE2Size {
		t.Fatal("the server does not answer a login:", err)
	}
	ke3, client, export2, err := l.Finish(ke2)
	if err != nil {
		t.Fatal(err)
	}
	if !VerifyKE3(mac, ke3) || !client.Equal(server) || client.Len() != SessionKeySize || !export.Equal(export2) {
		t.Fatal("the two ends do not agree")
	}
	if _, _, _, err := l.Finish(ke2); err == nil {
		t.Fatal("a login can be finished twice")
	}

	// The same KE1 again: another session, in which the old KE3 proves nothing.
	ke2b, macb, serverb, err := again.Login(id, registration, ke1)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(ke2, ke2b) || VerifyKE3(macb, ke3) || serverb.Equal(server) {
		t.Fatal("a replayed login message gives the old session")
	}
	if VerifyKE3(nil, nil) || VerifyKE3(mac, ke3[:63]) || VerifyKE3(mac, append(bytes.Clone(ke3[:63]), ke3[63]^1)) {
		t.Fatal("a proof that is none is taken")
	}
}

// TestOPAQUEWrong: whatever does not fit is a failed login, and nothing else.
func TestOPAQUEWrong(t *testing.T) {
	k, other, id := NewServerKeys(), NewServerKeys(), ID{7}
	registration, _ := registered(t, k, "right", id, DefaultKDF())
	stranger, _ := registered(t, other, "right", id, DefaultKDF())
	neighbour, _ := registered(t, k, "right", ID{8}, DefaultKDF())
	tampered := bytes.Clone(registration)
	tampered[len(tampered)-1] ^= 1
	costlier := bytes.Clone(registration) // says another cost than the client's
	costlier[4]++
	for name, c := range map[string]struct {
		secret       string
		id           ID
		keys         *ServerKeys
		registration []byte
	}{
		"a wrong secret":               {"wrong", id, k, registration},
		"an ID that does not exist":    {"right", id, k, nil},
		"a registration of another":    {"right", id, k, neighbour},
		"another's ID":                 {"right", ID{8}, k, registration},
		"another server":               {"right", id, other, registration},
		"another server's twin":        {"right", id, k, stranger},
		"a tampered registration":      {"right", id, k, tampered},
		"another cost in the registry": {"right", id, k, costlier},
	} {
		l, ke1, err := StartLogin(loginSecret(c.secret), c.id, DefaultKDF())
		if err != nil {
			t.Fatal(err)
		}
		ke2, _, _, err := c.keys.Login(c.id, c.registration, ke1)
		if err != nil {
			t.Errorf("%s: the server says so: %v", name, err)
			continue
		}
		ke3, session, export, err := l.Finish(ke2)
		if !errors.Is(err, ErrLogin) || ke3 != nil || session != nil || export != nil {
			t.Errorf("%s: %v, not a failed login", name, err)
		}
	}
	// A KE2 for another KE1.
	l, _, err := StartLogin(loginSecret("right"), id, DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	_, ke1, _ := StartLogin(loginSecret("right"), id, DefaultKDF())
	ke2, _, _, err := k.Login(id, registration, ke1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := l.Finish(ke2); !errors.Is(err, ErrLogin) {
		t.Errorf("an answer to another login: %v", err)
	}
	// A KE2 that was changed anywhere.
	for i := 0; i < KE2Size; i += 40 {
		l, ke1, err := StartLogin(loginSecret("right"), id, DefaultKDF())
		if err != nil {
			t.Fatal(err)
		}
		ke2, _, _, err := k.Login(id, registration, ke1)
		if err != nil {
			t.Fatal(err)
		}
		ke2[i] ^= 1
		if _, _, _, err := l.Finish(ke2); !errors.Is(err, ErrLogin) && !errors.Is(err, ErrRecord) {
			t.Errorf("an answer changed at %d: %v", i, err)
		}
	}
}

// TestOPAQUEWeakKDF: a client does not run a hash that a server made cheap, and a
// server does not keep a registration that says so.
func TestOPAQUEWeakKDF(t *testing.T) {
	weak := KDF{Time: 1, Memory: 8, Threads: 1}
	if _, _, err := StartLogin(loginSecret("right"), ID{7}, weak); !errors.Is(err, ErrWeakKDF) {
		t.Errorf("login: %v", err)
	}
	if _, _, err := StartRegistration(loginSecret("right"), ID{7}, weak); !errors.Is(err, ErrWeakKDF) {
		t.Errorf("registration: %v", err)
	}
	k := NewServerKeys()
	registration, _ := registered(t, k, "right", ID{7}, DefaultKDF())
	copy(registration[1:], weak.encode())
	if err := CheckRegistration(registration, weak); !errors.Is(err, ErrWeakKDF) {
		t.Errorf("check: %v", err)
	}
	if _, _, _, err := k.Login(ID{7}, registration, make([]byte, KE1Size)); !errors.Is(err, ErrWeakKDF) {
		t.Errorf("server: %v", err)
	}
	// A server that asks a client for another cost than it was registered with.
	more := DefaultKDF()
	more.Time++
	good, _ := registered(t, k, "right", ID{7}, DefaultKDF())
	if err := CheckRegistration(good, more); !errors.Is(err, ErrRecord) {
		t.Errorf("check of another cost: %v", err)
	}
	l, ke1, err := StartLogin(loginSecret("right"), ID{7}, more)
	if err != nil {
		t.Fatal(err)
	}
	ke2, _, _, err := k.Login(ID{7}, good, ke1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := l.Finish(ke2); !errors.Is(err, ErrLogin) {
		t.Errorf("login at another cost: %v", err)
	}
	for _, s := range []*secret.Bytes{nil, secret.New(nil), secret.New(make([]byte, 31))} {
		if _, _, err := StartLogin(s, ID{7}, DefaultKDF()); err == nil {
			t.Error("a login secret of another length is taken")
		}
	}
	if _, _, err := StartLogin(loginSecret("x"), ID{}, DefaultKDF()); err == nil {
		t.Error("a login without an ID is taken")
	}
}

// TestOPAQUEFake: an ID that does not exist is answered as one that does: the same
// lengths, the same evaluation of the same request each time, and no errors.
func TestOPAQUEFake(t *testing.T) {
	k := NewServerKeys()
	registration, _ := registered(t, k, "right", ID{7}, DefaultKDF())
	l, ke1, err := StartLogin(loginSecret("right"), ID{7}, DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	l.Wipe()
	real1, _, _, err := k.Login(ID{7}, registration, ke1)
	if err != nil {
		t.Fatal(err)
	}
	real2, _, _, _ := k.Login(ID{7}, registration, ke1)
	fake1, mac, key, err := k.Login(ID{9}, nil, ke1)
	if err != nil {
		t.Fatal(err)
	}
	fake2, _, _, _ := k.Login(ID{9}, nil, ke1)
	if len(fake1) != len(real1) || len(mac) != KE3Size || key.Len() != SessionKeySize {
		t.Fatal("a fake answer has another form")
	}
	// What stays the same and what is drawn anew does so in both.
	for i, pair := range [][2][]byte{{real1, real2}, {fake1, fake2}} {
		a, b := pair[0], pair[1]
		if !bytes.Equal(a[:32], b[:32]) || bytes.Equal(a[32:64], b[32:64]) || bytes.Equal(a[64:192], b[64:192]) {
			t.Errorf("case %d: answers to one request repeat what they must not, or change", i)
		}
	}
	a, err := k.fakeRecord(ID{9})
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseServerKeys(k.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := again.fakeRecord(ID{9})
	c, _ := k.fakeRecord(ID{10})
	if !bytes.Equal(a, b) || bytes.Equal(a, c) {
		t.Error("fakes are not one per ID")
	}
}

// TestOPAQUEConcurrent: many goroutines use one set of server keys.
func TestOPAQUEConcurrent(t *testing.T) {
	k := NewServerKeys()
	registration, _ := registered(t, k, "right", ID{7}, DefaultKDF())
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 8 {
				l, ke1, err := StartLogin(loginSecret("right"), ID{7}, DefaultKDF())
				if err != nil {
					t.Error(err)
					return
				}
				in := registration
				if (g+i)%3 == 0 {
					in = nil
				}
				ke2, mac, server, err := k.Login(ID{7}, in, ke1)
				if err != nil {
					t.Error(err)
					return
				}
				if g+i > 2 { // the password hash takes its time
					l.Wipe()
					continue
				}
				ke3, client, _, err := l.Finish(ke2)
				if in == nil && !errors.Is(err, ErrLogin) || in != nil && (err != nil || !client.Equal(server) || !VerifyKE3(mac, ke3)) {
					t.Errorf("login %d of goroutine %d: %v", i, g, err)
				}
				r, request, err := StartRegistration(loginSecret("new"), ID{byte(g + 1)}, DefaultKDF())
				if err != nil {
					t.Error(err)
					return
				}
				r.Wipe()
				if _, err := k.Register(ID{byte(g + 1)}, request); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestServerPart: parts open for their client and their authenticator only.
func TestServerPart(t *testing.T) {
	k, id := NewServerKeys(), ID{7}
	client, err := NewKeys(NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	to := client.Public().Seal
	wrapped, sealed, err := k.MakePart(id, to)
	if err != nil {
		t.Fatal(err)
	}
	part, err := client.Open(ServerPartContext(id), sealed)
	if err != nil || part.Len() != ServerPartSize {
		t.Fatal("the client does not open its part:", err)
	}
	if _, err := client.Open(ServerPartContext(ID{8}), sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("as another's: %v", err)
	}
	released, err := k.ReleasePart(id, wrapped, to)
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.Open(ServerPartContext(id), released)
	if err != nil || !again.Equal(part) {
		t.Fatal("the released part is another:", err)
	}
	if _, err := k.ReleasePart(ID{8}, wrapped, to); !errors.Is(err, ErrOpen) {
		t.Errorf("released as another's: %v", err)
	}
	if _, err := NewServerKeys().ReleasePart(id, wrapped, to); !errors.Is(err, ErrOpen) {
		t.Errorf("released by another server: %v", err)
	}
	fake1, err := k.ReleasePart(id, nil, to)
	if err != nil || len(fake1) != len(sealed) {
		t.Fatal("a fake part has another form:", err)
	}
	fake2, _ := k.ReleasePart(id, nil, to)
	a, err := client.Open(ServerPartContext(id), fake1)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := client.Open(ServerPartContext(id), fake2)
	if !a.Equal(b) || a.Equal(part) {
		t.Error("fake parts change, or are the real one")
	}
	for _, bad := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
		if _, _, err := k.MakePart(id, bad); err == nil {
			t.Errorf("a part is sealed to %x", bad)
		}
		if _, err := k.ReleasePart(id, wrapped, bad); err == nil {
			t.Errorf("a part is released to %x", bad)
		}
	}
}

func TestServerKeysEncoding(t *testing.T) {
	good := NewServerKeys().Marshal().Expose()
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"empty":          {},
		"short":          good[:len(good)-1],
		"long":           append(bytes.Clone(good), 0),
		"another format": change(func(b []byte) []byte { b[0] = 2; return b }),
		"no seed":        change(func(b []byte) []byte { clear(b[1:65]); return b }),
		"no private key": change(func(b []byte) []byte { clear(b[65:97]); return b }),
		"no root":        change(func(b []byte) []byte { clear(b[97:]); return b }),
		"a private key that is not reduced": change(func(b []byte) []byte {
			for i := 65; i < 97; i++ {
				b[i] = 0xff
			}
			return b
		}),
	} {
		if _, err := ParseServerKeys(secret.Copy(b)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k := NewServerKeys()
	k.Wipe()
	if _, err := k.Register(ID{1}, make([]byte, 32)); err == nil {
		t.Error("keys that were wiped still answer registrations")
	}
	if _, _, _, err := k.Login(ID{1}, nil, make([]byte, KE1Size)); err == nil {
		t.Error("keys that were wiped still answer logins")
	}
	if _, _, err := k.MakePart(ID{1}, bytes.Repeat([]byte{9}, 32)); err == nil {
		t.Error("keys that were wiped still make parts")
	}
}

// TestRFC9807 runs the vectors of RFC 9807, appendix C, for ristretto255 through
// our choice of suite, with the identity as password hash and the context that the
// vectors have, and the server's side through the code that logins take.
func TestRFC9807(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc9807.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Config          struct{ Context, Fake string }
		Inputs, Outputs map[string]string
	}
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) != 3 {
		t.Fatal("not the three vectors:", len(vectors), err)
	}
	for i, v := range vectors {
		get := func(m map[string]string, key string) []byte {
			b, err := hex.DecodeString(m[key])
			if err != nil {
				t.Fatal(err)
			}
			if len(b) == 0 {
				return nil // an identity that is not given is the public key
			}
			return b
		}
		in := func(key string) []byte { return get(v.Inputs, key) }
		want := func(key string, got []byte) {
			t.Helper()
			if !bytes.Equal(get(v.Outputs, key), got) {
				t.Errorf("vector %d: %s is %x", i, key, got)
			}
		}
		conf := opaqueSuite(DefaultKDF())
		conf.KSF, conf.Context = 0, mustHex(t, v.Config.Context)
		keys, err := ParseServerKeys(secret.New(bytes.Join([][]byte{{serverKeysV1}, in("oprf_seed"), in("server_private_key"), bytes.Repeat([]byte{1}, 32)}, nil)))
		if err != nil || !bytes.Equal(keys.PublicKey(), in("server_public_key")) {
			t.Fatalf("vector %d: server keys: %v", i, err)
		}
		server, wipe, err := keys.server(conf, in("server_identity"))
		if err != nil {
			t.Fatal(err)
		}
		defer wipe()
		options := &opaque.ServerOptions{MaskingNonce: in("masking_nonce"),
			AKE: &opaque.AKEOptions{SecretKeyShareSeed: in("server_keyshare_seed"), Nonce: in("server_nonce")}}
		if v.Config.Fake == "True" {
			record := bytes.Join([][]byte{in("client_public_key"), in("masking_key"), make([]byte, 96)}, nil)
			ke2, _, _, err := login(server, in("credential_identifier"), in("client_identity"), record, in("KE1"), options)
			if err != nil {
				t.Fatal(err)
			}
			want("KE2", ke2)
			continue
		}
		client, err := conf.Client()
		if err != nil {
			t.Fatal(err)
		}
		blind := opaqueGroup.NewScalar()
		if err := blind.Decode(in("blind_registration")); err != nil {
			t.Fatal(err)
		}
		request, err := client.RegistrationInit(in("password"), &opaque.ClientOptions{OPRFBlind: blind})
		if err != nil {
			t.Fatal(err)
		}
		want("registration_request", request.Serialize())
		response, err := register(server, in("credential_identifier"), request.Serialize())
		if err != nil {
			t.Fatal(err)
		}
		want("registration_response", response)
		parsed, err := client.Deserialize.RegistrationResponse(response)
		if err != nil {
			t.Fatal(err)
		}
		record, export, err := client.RegistrationFinalize(parsed, in("client_identity"), in("server_identity"),
			&opaque.ClientOptions{RegistrationEnvelopeNonce: in("envelope_nonce")})
		if err != nil {
			t.Fatal(err)
		}
		want("registration_upload", record.Serialize())
		want("export_key", export)
		if client, err = conf.Client(); err != nil {
			t.Fatal(err)
		}
		if err := blind.Decode(in("blind_login")); err != nil {
			t.Fatal(err)
		}
		ke1, err := client.GenerateKE1(in("password"), &opaque.ClientOptions{OPRFBlind: blind,
			AKE: &opaque.AKEOptions{SecretKeyShareSeed: in("client_keyshare_seed"), Nonce: in("client_nonce")}})
		if err != nil {
			t.Fatal(err)
		}
		want("KE1", ke1.Serialize())
		ke2, mac, session, err := login(server, in("credential_identifier"), in("client_identity"), record.Serialize(), ke1.Serialize(), options)
		if err != nil {
			t.Fatal(err)
		}
		want("KE2", ke2)
		want("KE3", mac)
		want("session_key", session.Expose())
		answer, err := client.Deserialize.KE2(ke2)
		if err != nil {
			t.Fatal(err)
		}
		ke3, _, export, err := client.GenerateKE3(answer, in("client_identity"), in("server_identity"))
		if err != nil {
			t.Fatal(err)
		}
		want("KE3", ke3.Serialize())
		want("export_key", export)
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzOPAQUE gives every decoder of a server and a client anything.
func FuzzOPAQUE(f *testing.F) {
	k := NewServerKeys()
	l, ke1, err := StartLogin(loginSecret("right"), ID{7}, DefaultKDF())
	if err != nil {
		f.Fatal(err)
	}
	l.Wipe()
	ke2, mac, _, err := k.Login(ID{7}, nil, ke1)
	if err != nil {
		f.Fatal(err)
	}
	fake, err := k.fakeRecord(ID{7})
	if err != nil {
		f.Fatal(err)
	}
	registration := append(append([]byte{registrationV1}, DefaultKDF().encode()...), fake...)
	for _, seed := range [][]byte{nil, ke1, ke1[:32], ke2, mac, registration, k.Marshal().Expose(), append(bytes.Clone(k.PublicKey()), k.PublicKey()...)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if keys, err := ParseServerKeys(secret.Copy(b)); err == nil && !bytes.Equal(keys.Marshal().Expose(), b) {
			t.Error("server keys have two encodings")
		}
		_, _ = k.Register(ID{7}, b)
		_, _, _, _ = k.Login(ID{7}, registration, b)
		_, _, _, _ = k.Login(ID{7}, b, ke1)
		_ = CheckRegistration(b, DefaultKDF())
		_, _ = k.ReleasePart(ID{7}, b, k.PublicKey())
		_, _, _ = k.MakePart(ID{7}, b)
		if VerifyKE3(mac, b) != bytes.Equal(mac, b) {
			t.Error("a proof that is none is taken")
		}
		// A client's decoders, without its password hash.
		d, err := opaqueSuite(DefaultKDF()).Deserializer()
		if err != nil {
			t.Fatal(err)
		}
		if m, err := d.KE2(bytes.Clone(b)); err == nil && !bytes.Equal(m.Serialize(), b) {
			t.Error("KE2 has two encodings")
		}
		if m, err := d.RegistrationResponse(bytes.Clone(b)); err == nil && !bytes.Equal(m.Serialize(), b) {
			t.Error("a registration response has two encodings")
		}
		if !bytes.Equal(before, b) {
			t.Error("an input was changed")
		}
	})
}

// BenchmarkServerLogin is a node's work for one login.
func BenchmarkServerLogin(b *testing.B) {
	k := NewServerKeys()
	l, ke1, err := StartLogin(loginSecret("right"), ID{7}, DefaultKDF())
	if err != nil {
		b.Fatal(err)
	}
	l.Wipe()
	for b.Loop() {
		if _, _, _, err := k.Login(ID{7}, nil, ke1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkClientLogin is a client's work for one login: the password hash.
func BenchmarkClientLogin(b *testing.B) {
	k := NewServerKeys()
	for b.Loop() {
		l, ke1, err := StartLogin(loginSecret("right"), ID{7}, DefaultKDF())
		if err != nil {
			b.Fatal(err)
		}
		ke2, _, _, err := k.Login(ID{7}, nil, ke1)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := l.Finish(ke2); !errors.Is(err, ErrLogin) {
			b.Fatal(err)
		}
	}
}
