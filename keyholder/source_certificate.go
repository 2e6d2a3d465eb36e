package keyholder

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// Algorithms of identity.CertificateParameters.
const (
	algorithmECDH = "ecdh-p256"
	algorithmRSA  = "rsa-oaep-sha256"

	labelCertificate = "mpc identity certificate information v1"

	pointSize = 65       // 04 ‖ X ‖ Y
	tagSize   = 16       // of AES-256-GCM
	minRSA    = 2048 / 8 // bytes of a modulus
)

// CertificateKey is a private key with its certificate: a file's, or a token's,
// whose private key stays in it. It is used by one goroutine and closed by who
// opened it.
type CertificateKey interface {
	// Certificate is DER, empty where there is only a key.
	Certificate() []byte
	// Public is an *ecdsa.PublicKey on P-256 or an *rsa.PublicKey of 2048 bits
	// or more.
	Public() any
	// ECDH returns the X coordinate of the shared point, 32 bytes.
	ECDH(ctx context.Context, peer *ecdh.PublicKey) (*secret.Bytes, error)
	// DecryptOAEP decrypts with SHA-256 for hash and MGF1, and the label.
	DecryptOAEP(ctx context.Context, ciphertext []byte) (*secret.Bytes, error)
	Close() error
}

type certificateSource struct {
	asker
	open func(context.Context) (CertificateKey, error)
}

// Certificate has the information opened by the key of a certificate. open is
// called once per registration or login.
func Certificate(p Prompter, open func(context.Context) (CertificateKey, error)) Source {
	return certificateSource{asker{p}, open}
}

func (certificateSource) Method() identity.Method { return identity.Certificate }

// New draws 32 bytes, seals them to the key and opens them again at once: a key
// that cannot do it is noticed while nothing depends on it.
//
// Encodings of what is sealed: ecdh-p256: encapsulated point (65 bytes) ‖
// ciphertext with tag (48) of HPKE base mode, DHKEM(P-256, HKDF-SHA256),
// HKDF-SHA256, AES-256-GCM (RFC 9180), info the label, additional data the
// authenticator's ID. rsa-oaep-sha256: RSAES-OAEP (RFC 8017, 7.1) with SHA-256
// and the empty label of SHA-256(label ‖ ID) ‖ the 32 bytes; as long as the
// modulus.
func (s certificateSource) New(ctx context.Context, n *Registering) (*secret.Bytes, error) {
	key, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	info := random(informationSize)
	algorithm, sealed, err := sealToCertificate(key.Public(), n.ID, info)
	if err == nil {
		var back *secret.Bytes
		if back, err = openWithCertificate(ctx, key, algorithm, n.ID, sealed); err == nil && !back.Equal(info) {
			err = errors.New("the key opened something else than what was sealed to it")
		}
		back.Wipe()
	}
	if err = errors.Join(err, key.Close()); err != nil {
		info.Wipe()
		return nil, fmt.Errorf("the certificate's key cannot be used, so nothing was made: %w", err)
	}
	n.Parameters.Certificate = &identity.CertificateParameters{Certificate: key.Certificate(), Algorithm: algorithm, Sealed: sealed}
	return info, nil
}

func (s certificateSource) Get(ctx context.Context, c *Challenge) (*Answer, error) {
	if c.Certificate == nil {
		return nil, errors.New("the server did not send what the certificate's key has to open: authenticator " + c.Name + " is of another kind")
	}
	key, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	info, err := openWithCertificate(ctx, key, c.Certificate.Algorithm, c.LoginID, c.Certificate.Sealed)
	if err = errors.Join(err, key.Close()); err != nil {
		info.Wipe()
		return nil, fmt.Errorf("this key does not open authenticator %s: it is another's key, or there is no such authenticator: %w", c.Name, err)
	}
	return &Answer{Information: info}, nil
}

func sealToCertificate(public any, id identity.ID, info *secret.Bytes) (algorithm string, sealed []byte, err error) {
	switch pub := public.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.ECDH()
		if err != nil || point.Curve() != ecdh.P256() {
			return "", nil, errors.New("its elliptic curve is not P-256")
		}
		to, err := hpke.DHKEM(ecdh.P256()).NewPublicKey(point.Bytes())
		if err != nil {
			return "", nil, err
		}
		enc, sender, err := hpke.NewSender(to, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelCertificate))
		if err != nil {
			return "", nil, err
		}
		ct, err := sender.Seal(id[:], info.Expose())
		return algorithmECDH, append(enc, ct...), err
	case *rsa.PublicKey:
		if pub.Size() < minRSA {
			return "", nil, fmt.Errorf("its modulus has %d bits, fewer than %d", pub.N.BitLen(), minRSA*8)
		}
		binding := certificateBinding(id)
		plain := append(binding[:], info.Expose()...)
		defer secret.Wipe(plain)
		sealed, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, plain, nil)
		return algorithmRSA, sealed, err
	}
	return "", nil, errors.New("it is neither a P-256 nor an RSA key")
}

func certificateBinding(id identity.ID) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(labelCertificate), id[:]...))
}

var errNotSealedToKey = errors.New("what the server sent does not open with it")

func openWithCertificate(ctx context.Context, key CertificateKey, algorithm string, id identity.ID, sealed []byte) (*secret.Bytes, error) {
	switch algorithm {
	case algorithmECDH:
		pub, ok := key.Public().(*ecdsa.PublicKey)
		if !ok || len(sealed) != pointSize+informationSize+tagSize {
			return nil, errNotSealedToKey
		}
		point, err := pub.ECDH()
		if err != nil {
			return nil, err
		}
		return openHPKE(ctx, key, point, id, sealed)
	case algorithmRSA:
		pub, ok := key.Public().(*rsa.PublicKey)
		if !ok || len(sealed) != pub.Size() {
			return nil, errNotSealedToKey
		}
		plain, err := key.DecryptOAEP(ctx, sealed)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSealedToKey, err)
		}
		defer plain.Wipe()
		binding := certificateBinding(id)
		if plain.Len() != len(binding)+informationSize || [sha256.Size]byte(plain.Expose()[:len(binding)]) != binding {
			return nil, errNotSealedToKey
		}
		return secret.Copy(plain.Expose()[len(binding):]), nil
	}
	return nil, fmt.Errorf("%w: the algorithm is not known", errNotSealedToKey)
}

func openHPKE(ctx context.Context, key CertificateKey, point *ecdh.PublicKey, id identity.ID, sealed []byte) (*secret.Bytes, error) {
	x := &exchange{ctx: ctx, key: key, point: point}
	defer func() { x.shared.Wipe() }()
	sk, err := hpke.NewDHKEMPrivateKey(x)
	if err != nil {
		return nil, err
	}
	r, err := hpke.NewRecipient(sealed[:pointSize], sk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelCertificate))
	if x.err != nil {
		return nil, x.err
	}
	if err != nil {
		return nil, errNotSealedToKey
	}
	plain, err := r.Open(id[:], sealed[pointSize:])
	if err != nil {
		return nil, errNotSealedToKey
	}
	return secret.New(plain), nil
}

// exchange lets crypto/hpke use a CertificateKey as its private key, once and in
// one goroutine; ecdh.KeyExchanger has no place for a context.
type exchange struct {
	ctx    context.Context
	key    CertificateKey
	point  *ecdh.PublicKey
	shared *secret.Bytes
	err    error // what the key said, kept apart from HPKE's own errors
}

var _ ecdh.KeyExchanger = (*exchange)(nil)

func (x *exchange) PublicKey() *ecdh.PublicKey { return x.point }
func (x *exchange) Curve() ecdh.Curve          { return x.point.Curve() }

func (x *exchange) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := x.key.ECDH(x.ctx, peer)
	if err != nil {
		x.err = err
		return nil, err
	}
	x.shared = z
	return z.Expose(), nil
}
