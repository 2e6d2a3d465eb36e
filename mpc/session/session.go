// Package session gives the parties of one protocol session a name for it and
// keys to talk in private: a signed hello from each party, a session ID that
// hashes all of them, and pairwise sealed messages.
//
// Every party signs a fresh X25519 key and nonce together with the terms of
// the session (operation, members, inputs). A party that was told other terms,
// or is not the pinned identity, fails the handshake. Who routes the messages
// can drop, delay or repeat them; it cannot read, change or forge one.
//
// Border: pure values and cryptography. No I/O, no clock, no protocol library.
package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

const (
	termsLabel = "vault-plugin-secrets-mpc session terms v1"
	helloLabel = "vault-plugin-secrets-mpc session hello v1"
	idLabel    = "vault-plugin-secrets-mpc session id v1"
	keyLabel   = "vault-plugin-secrets-mpc session key v1"
)

// maxMessages bounds how many sealed messages one party accepts from another.
const maxMessages = 64

// Errors of the handshake and of opening messages.
var (
	// ErrHello: a hello is missing, malformed or not signed by the member's
	// pinned identity over these terms.
	ErrHello = errors.New("session hello refused")
	// ErrMessage: a sealed message is forged, damaged, repeated or not for us.
	ErrMessage = errors.New("session message refused")
)

// Member is one party of a session: which share it holds and who it is.
type Member struct {
	Index    mpc.Index
	NodeID   string
	Identity mpc.NodeIdentity
}

// Terms is what all parties must agree on before they start.
type Terms struct {
	Operation string
	Members   []Member // ascending by index
	// Inputs is the hash of everything else that was asked for.
	Inputs [32]byte
}

func (t Terms) check(self mpc.Index) error {
	var last mpc.Index
	found := false
	for _, m := range t.Members {
		if m.Index <= last || m.Index > mpc.MaxShares || m.NodeID == "" {
			return errors.New("session members are not in order")
		}
		last = m.Index
		found = found || m.Index == self
	}
	seen := map[mpc.NodeIdentity]bool{}
	for _, m := range t.Members {
		if seen[m.Identity] {
			return errors.New("one node holds two shares of a session")
		}
		seen[m.Identity] = true
	}
	if len(t.Members) < 2 || !found || t.Operation == "" {
		return errors.New("session terms are incomplete")
	}
	return nil
}

// hash is canonical: every field with its length.
func (t Terms) hash() [32]byte {
	h := sha256.New()
	put := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(b)))
		h.Write(b)
	}
	put([]byte(termsLabel))
	put([]byte(t.Operation))
	for _, m := range t.Members {
		put([]byte{byte(m.Index)})
		put([]byte(m.NodeID))
		put(m.Identity[:])
	}
	put(t.Inputs[:])
	return [32]byte(h.Sum(nil))
}

// Hello is one party's signed contribution.
type Hello struct {
	Nonce     [32]byte
	Ephemeral [32]byte // X25519 public key
	Signature [64]byte // Ed25519 over (label, terms hash, index, nonce, key)
}

func helloMessage(terms [32]byte, i mpc.Index, h Hello) []byte {
	b := append([]byte(helloLabel), terms[:]...)
	b = append(b, byte(i))
	b = append(b, h.Nonce[:]...)
	return append(b, h.Ephemeral[:]...)
}

// Handshake is a party that has said hello and waits for the others.
type Handshake struct {
	terms Terms
	hash  [32]byte
	self  mpc.Index
	key   *ecdh.PrivateKey
	hello Hello
}

// Begin makes this party's hello, signed with its identity key.
func Begin(terms Terms, self mpc.Index, identity ed25519.PrivateKey) (*Handshake, Hello, error) {
	if err := terms.check(self); err != nil {
		return nil, Hello{}, err
	}
	h := &Handshake{terms: terms, hash: terms.hash(), self: self}
	for _, m := range terms.Members {
		if m.Index == self && !m.Identity.Equal(identity.Public()) {
			return nil, Hello{}, errors.New("the session names another identity for this node")
		}
	}
	var err error
	if h.key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return nil, Hello{}, err
	}
	if _, err = rand.Read(h.hello.Nonce[:]); err != nil {
		return nil, Hello{}, err
	}
	copy(h.hello.Ephemeral[:], h.key.PublicKey().Bytes())
	copy(h.hello.Signature[:], ed25519.Sign(identity, helloMessage(h.hash, self, h.hello)))
	return h, h.hello, nil
}

// Complete checks the other parties' hellos and opens the channel. hellos may
// hold this party's own; it is not looked at.
func (h *Handshake) Complete(hellos map[mpc.Index]Hello) (*Channel, error) {
	sum := sha256.New()
	sum.Write([]byte(idLabel))
	sum.Write(h.hash[:])
	peers := map[mpc.Index]*ecdh.PublicKey{}
	for _, m := range h.terms.Members {
		hello := h.hello
		if m.Index != h.self {
			var ok bool
			if hello, ok = hellos[m.Index]; !ok {
				return nil, fmt.Errorf("%w: none from %s", ErrHello, m.NodeID)
			}
			if !ed25519.Verify(m.Identity[:], helloMessage(h.hash, m.Index, hello), hello.Signature[:]) {
				return nil, fmt.Errorf("%w: %s did not sign these terms", ErrHello, m.NodeID)
			}
			key, err := ecdh.X25519().NewPublicKey(hello.Ephemeral[:])
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrHello, m.NodeID, err)
			}
			peers[m.Index] = key
		}
		sum.Write([]byte{byte(m.Index)})
		sum.Write(hello.Nonce[:])
		sum.Write(hello.Ephemeral[:])
	}
	c := &Channel{self: h.self, id: mpc.SessionID(sum.Sum(nil)), peers: map[mpc.Index]*pair{}}
	for i, key := range peers {
		shared, err := h.key.ECDH(key) // refuses low-order points
		if err != nil {
			return nil, fmt.Errorf("%w: share %d: %w", ErrHello, i, err)
		}
		p := &pair{seen: map[uint32]bool{}}
		p.out, err = c.aead(shared, h.self, i)
		if err == nil {
			p.in, err = c.aead(shared, i, h.self)
		}
		secret.Wipe(shared)
		if err != nil {
			return nil, err
		}
		c.peers[i] = p
	}
	return c, nil
}

// Channel seals and opens this party's messages. It belongs to one goroutine.
type Channel struct {
	self  mpc.Index
	id    mpc.SessionID
	peers map[mpc.Index]*pair
}

// pair is the state with one peer: a key and a counter per direction.
type pair struct {
	out, in cipher.AEAD
	sent    uint32
	seen    map[uint32]bool
}

// ID is the session's identity; all honest parties have the same.
func (c *Channel) ID() mpc.SessionID { return c.id }

func (c *Channel) aead(shared []byte, from, to mpc.Index) (cipher.AEAD, error) {
	info := keyLabel + string([]byte{byte(from), byte(to)})
	key, err := hkdf.Key(sha256.New, shared, c.id[:], info, 32)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// context is the authenticated data of a message: session, sender, recipient.
func (c *Channel) context(from, to mpc.Index) []byte {
	return append(c.id[:len(c.id):len(c.id)], byte(from), byte(to))
}

// nonce is the message number, big-endian in the last 4 of 12 bytes; a key is
// used in one direction of one session only.
func nonce(n uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 8, 12), n) }

// Seal encrypts body for one peer: number (4 bytes, big-endian) ‖ AES-256-GCM.
func (c *Channel) Seal(to mpc.Index, body []byte) ([]byte, error) {
	p := c.peers[to]
	if p == nil {
		return nil, fmt.Errorf("share %d is not in this session", to)
	}
	if p.sent >= maxMessages {
		return nil, fmt.Errorf("more than %d messages to share %d", maxMessages, to)
	}
	n := p.sent
	p.sent++
	out := binary.BigEndian.AppendUint32(nil, n)
	return p.out.Seal(out, nonce(n), body, c.context(c.self, to)), nil
}

// Open decrypts a message said to be from a peer. Messages may arrive in any
// order; each is accepted once.
func (c *Channel) Open(from mpc.Index, sealed []byte) ([]byte, error) {
	p := c.peers[from]
	if p == nil || len(sealed) < 4 {
		return nil, fmt.Errorf("%w: from share %d", ErrMessage, from)
	}
	n := binary.BigEndian.Uint32(sealed)
	if n >= maxMessages || p.seen[n] {
		return nil, fmt.Errorf("%w: number %d from share %d", ErrMessage, n, from)
	}
	body, err := p.in.Open(nil, nonce(n), sealed[4:], c.context(from, c.self))
	if err != nil {
		return nil, fmt.Errorf("%w: from share %d", ErrMessage, from)
	}
	p.seen[n] = true
	return body, nil
}
