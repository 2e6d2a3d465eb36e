package backend

import (
	"context"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// Whoever asks for a challenge without being logged in must not learn whether an
// authenticator exists, nor of what kind it is. So every name gets an answer of the
// kind that was asked for, and the same one every time: drawn from a key that only
// this mount has (fakeLoginID), by name and kind.
//
// What this cannot hide is what the owner chose and nobody else would: a question
// of his own, or parameters of the password hash beside the default. The answer has
// to contain them, since a client needs them before it can log in.

// shown is what a challenge says of an authenticator, real or not.
type shown struct {
	id          identity.ID
	kdf         identity.KDF
	question    string
	pin         bool
	certificate *identity.CertificateParameters // algorithm and sealed only
	passkey     *identity.PasskeyParameters     // without the public key
	provider    string                          // of kind oidc
}

// questions are those of authenticators that do not exist; three in four ask none.
func questions() []string {
	return []string{
		"What was the name of your first pet?",
		"In which town were you born?",
		"What is your mother's maiden name?",
		"What was the name of your first school?",
	}
}

// fake returns what an authenticator of that name and kind would show if it were
// there.
func (b *backend) fake(ctx context.Context, name string, kind identity.Method, c *identitiesConfigRecord) (*shown, error) {
	// Kinds and names have no space, so no text here is that of another name.
	of := string(kind) + " " + name
	id, err := b.fakeLoginID(ctx, of)
	if err != nil {
		return nil, err
	}
	var failed error
	draw := func(what string, n int) []byte {
		out, err := b.fakeBytes(ctx, what, of, n)
		if err != nil { // the keys are in memory; then it fails as a whole
			failed = err
			return make([]byte, n)
		}
		return out
	}
	s := &shown{id: id, kdf: identity.DefaultKDF()}
	if d := draw("question", 2); d[0]%4 == 0 {
		all := questions()
		s.question = all[int(d[1])%len(all)]
	}
	switch kind {
	case identity.Certificate:
		if s.certificate, err = fakeCertificate(draw); err != nil {
			return nil, err
		}
	case identity.Passkey:
		size := []int{16, 20, 32, 64}[draw("credential size", 1)[0]%4]
		s.passkey = &identity.PasskeyParameters{RelyingParty: c.PasskeyRelyingParty, CredentialID: draw("credential", size), Salt: draw("salt", 32)}
	case identity.OIDC:
		s.pin = draw("pin", 1)[0]%2 == 0
		s.provider = pickProvider(draw, slices.Sorted(maps.Keys(c.OIDC)))
	case identity.Phone:
		s.pin = draw("pin", 1)[0]%2 == 0
	}
	return s, failed
}

// fakeCertificate looks like HPKE to a P-256 key (a point of 65 bytes, 32 bytes and
// a tag of 16), or like RSA-OAEP with 2048, 3072 or 4096 bits.
func fakeCertificate(draw func(string, int) []byte) (*identity.CertificateParameters, error) {
	if d := draw("algorithm", 1)[0]; d%2 == 0 {
		return &identity.CertificateParameters{Algorithm: "rsa-oaep-sha256", Sealed: fakeOAEP(draw, []int{256, 384, 512, 256}[d/2%4])}, nil
	}
	// The point has to be on the curve: anybody can check that.
	for i := range 8 {
		key, err := ecdh.P256().NewPrivateKey(draw(fmt.Sprint("point ", i), 32))
		if err == nil {
			return &identity.CertificateParameters{Algorithm: "ecdh-p256", Sealed: append(key.PublicKey().Bytes(), draw("sealed", 32+16)...)}, nil
		}
	}
	return nil, fmt.Errorf("no point of the curve came of eight draws") // 2^-256
}

// fakeOAEP is a number below a modulus of that many bytes. The two primes of one
// have their highest two bits set as a rule, so that it begins with 0x90 at least.
func fakeOAEP(draw func(string, int) []byte, size int) []byte {
	modulus := draw("modulus", 1)[0]
	modulus = 0x90 + modulus%0x70
	for i := 0; ; i++ {
		if sealed := draw(fmt.Sprint("rsa ", i), size); sealed[0] < modulus {
			return sealed
		}
	}
}

// pickProvider gives each name one of the providers, and another one only where a
// provider that comes later beats it or its own is removed.
func pickProvider(draw func(string, int) []byte, names []string) (best string) {
	var highest uint64
	for _, name := range names {
		if v := binary.BigEndian.Uint64(draw("provider "+name, 8)); best == "" || v > highest {
			best, highest = name, v
		}
	}
	return best
}

// decoy is a stored authenticator that belongs to nobody. It is decoded and verified
// where there is none of a name, so that this takes as long as where there is one.
type decoy struct{ stored []byte }

const decoyName = "nobody"

func newDecoy(now time.Time) (*decoy, error) {
	keys, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	a := &identity.Authenticator{
		Format: 1, ID: newID(), Name: decoyName, Method: identity.Password, Keys: keys.Public(), KDF: identity.DefaultKDF(),
		Created: now.UTC().Truncate(time.Second), Wrapped: make([]byte, identity.WrappedOverhead+identity.SeedSize),
	}
	signed, err := identity.SignAuthenticator(a, keys)
	if err != nil {
		return nil, err
	}
	d := &decoy{}
	d.stored, err = json.Marshal(&authenticatorRecord{Version: recordVersion, ID: a.ID.String(), Signed: *signed, Registration: make([]byte, identity.RegistrationSize)})
	return d, err
}

func (d *decoy) open() error {
	r := &authenticatorRecord{}
	if err := decodeRecord(d.stored, r); err != nil {
		return err
	}
	_, err := r.open(decoyName)
	return err
}
