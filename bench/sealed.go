package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/session"
)

// identities are the identity keys of as many nodes as an account has signers.
func identities(n int) (map[mpc.Index]ed25519.PrivateKey, error) {
	out := map[mpc.Index]ed25519.PrivateKey{}
	for i := mpc.Index(1); int(i) <= n; i++ {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		out[i] = private
	}
	return out, nil
}

// handshake opens a channel between each two nodes: signed hellos, as at the
// beginning of every session.
func handshake(nodes map[mpc.Index]ed25519.PrivateKey) (map[mpc.Index]*session.Channel, error) {
	terms := session.Terms{Operation: "sign"}
	for i := mpc.Index(1); int(i) <= len(nodes); i++ {
		terms.Members = append(terms.Members, session.Member{Index: i, NodeID: fmt.Sprint("node-", i),
			Identity: mpc.NodeIdentity(nodes[i].Public().(ed25519.PublicKey))})
	}
	begun, hellos := map[mpc.Index]*session.Handshake{}, map[mpc.Index]session.Hello{}
	for i, key := range nodes {
		var err error
		if begun[i], hellos[i], err = session.Begin(terms, i, key); err != nil {
			return nil, err
		}
	}
	channels := map[mpc.Index]*session.Channel{}
	for i, h := range begun {
		var err error
		if channels[i], err = h.Complete(hellos); err != nil {
			return nil, err
		}
	}
	return channels, nil
}

// sealed carries each message from its sender to its recipient as nodes do:
// encoded, sealed, opened and decoded.
func sealed(channels map[mpc.Index]*session.Channel) carrier {
	return func(to mpc.Index, m mpc.Message) (mpc.Message, error) {
		plain, err := session.EncodeProtocol(m)
		if err != nil {
			return m, err
		}
		closed, err := channels[m.From].Seal(to, plain)
		if err != nil {
			return m, err
		}
		opened, err := channels[to].Open(m.From, closed)
		if err != nil {
			return m, err
		}
		body, err := session.Decode(opened, m.From, to)
		return body.Message, err
	}
}

// schnorrSealed signs with BIP-340 or Ed25519 in a session of its own: what a
// signature costs nodes, without token and streams.
func (e *engine) schnorrSealed(nodes map[mpc.Index]ed25519.PrivateKey, message []byte) error {
	if len(nodes) != e.record.Threshold {
		return fmt.Errorf("%d nodes for a threshold of %d", len(nodes), e.record.Threshold)
	}
	channels, err := handshake(nodes)
	if err != nil {
		return err
	}
	parties, err := e.schnorrParties(channels[1].ID(), message)
	if err != nil {
		return err
	}
	return drive(parties, sealed(channels))
}
