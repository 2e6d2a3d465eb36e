package main

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/bnb-chain/tss-lib/v2/common"
	ecdsakeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecdsasigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	eddsakeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	eddsasigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	"github.com/bnb-chain/tss-lib/v2/tss"
	bytemare "github.com/bytemare/frost"
	"github.com/bytemare/frost/debug"
	"github.com/bytemare/secret-sharing/keys"
	"github.com/taurusgroup/multi-party-sig/pkg/ecdsa"
	"github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"
	"github.com/taurusgroup/multi-party-sig/pkg/protocol"
	"github.com/taurusgroup/multi-party-sig/protocols/cmp"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"
)

// Raw libraries, driven as their own tests do, all parties in one process.

func partyIDs(n int) []party.ID {
	var out []party.ID
	for i := range n {
		out = append(out, party.ID([]byte{byte(i + 1)}))
	}
	return out
}

// mps runs a protocol of multi-party-sig among parties, message by message.
func mps(ids []party.ID, start func(party.ID) protocol.StartFunc) (map[party.ID]any, error) {
	id := sessionID()
	handlers := map[party.ID]*protocol.MultiHandler{}
	for _, i := range ids {
		h, err := protocol.NewMultiHandler(start(i), id[:])
		if err != nil {
			return nil, err
		}
		handlers[i] = h
	}
	for moved := true; moved; {
		moved = false
		for _, i := range ids {
			for {
				var m *protocol.Message
				var ok bool
				select {
				case m, ok = <-handlers[i].Listen():
				default:
				}
				if !ok {
					break
				}
				moved = true
				// As over a network: every recipient decodes its own copy.
				b, err := m.MarshalBinary()
				if err != nil {
					return nil, err
				}
				for _, to := range ids {
					copied := &protocol.Message{}
					if err := copied.UnmarshalBinary(b); err != nil {
						return nil, err
					}
					if to != i && (copied.Broadcast || copied.To == to) {
						handlers[to].Accept(copied)
					}
				}
			}
		}
	}
	results := map[party.ID]any{}
	for i, h := range handlers {
		r, err := h.Result()
		if err != nil {
			return nil, err
		}
		results[i] = r
	}
	return results, nil
}

func rawKeygen(taproot bool, threshold, n int) (map[party.ID]any, error) {
	ids := partyIDs(n)
	return mps(ids, func(i party.ID) protocol.StartFunc {
		if taproot {
			return frost.KeygenTaproot(i, ids, threshold-1)
		}
		return frost.Keygen(curve.Secp256k1{}, i, ids, threshold-1)
	})
}

func rawRefresh(keys map[party.ID]any) (map[party.ID]any, error) {
	ids := partyIDs(len(keys))
	return mps(ids, func(i party.ID) protocol.StartFunc { return frost.RefreshTaproot(keys[i].(*frost.TaprootConfig), ids) })
}

func rawTaproot(keys map[party.ID]any, threshold int, message []byte) error {
	ids := partyIDs(threshold)
	_, err := mps(ids, func(i party.ID) protocol.StartFunc {
		return frost.SignTaproot(keys[i].(*frost.TaprootConfig), ids, message)
	})
	return err
}

// rawCMPKeys makes CMP configurations of the signers alone: 2 of 2 costs least,
// and signing with two costs the same whatever n is.
func rawCMPKeys() (map[party.ID]any, error) {
	ids := partyIDs(2)
	return mps(ids, func(i party.ID) protocol.StartFunc { return cmp.Keygen(curve.Secp256k1{}, i, ids, 1, nil) })
}

func rawCMPSign(keys map[party.ID]any, digest []byte) error {
	ids := partyIDs(2)
	_, err := mps(ids, func(i party.ID) protocol.StartFunc { return cmp.Sign(keys[i].(*cmp.Config), ids, digest, nil) })
	return err
}

func rawPresign(keys map[party.ID]any) (map[party.ID]any, error) {
	ids := partyIDs(2)
	return mps(ids, func(i party.ID) protocol.StartFunc { return cmp.Presign(keys[i].(*cmp.Config), ids, nil) })
}

func rawOnline(keys, presigned map[party.ID]any, digest []byte) error {
	_, err := mps(partyIDs(2), func(i party.ID) protocol.StartFunc {
		return cmp.PresignOnline(keys[i].(*cmp.Config), presigned[i].(*ecdsa.PreSignature), digest, nil)
	})
	return err
}

// tssRun drives parties of tss-lib until all have ended, and returns what they
// ended with, in the order in which they did.
func tssRun[T any](parties []tss.Party, out chan tss.Message, end chan T) ([]T, error) {
	for _, p := range parties {
		if err := p.Start(); err != nil {
			return nil, err
		}
	}
	var results []T
	for len(results) < len(parties) {
		select {
		case m := <-out:
			b, _, err := m.WireBytes()
			if err != nil {
				return nil, err
			}
			for _, p := range parties {
				index := p.PartyID().Index
				if index == m.GetFrom().Index || m.GetTo() != nil && !slices.ContainsFunc(m.GetTo(), func(id *tss.PartyID) bool { return id.Index == index }) {
					continue
				}
				parsed, err := tss.ParseWireMessage(b, m.GetFrom(), m.IsBroadcast())
				if err != nil {
					return nil, err
				}
				if _, err := p.Update(parsed); err != nil {
					return nil, err
				}
			}
		case r := <-end:
			results = append(results, r)
		}
	}
	return results, nil
}

// tssShares are the parties of a key, 2 of 3.
func tssShares() tss.SortedPartyIDs {
	var ids tss.UnSortedPartyIDs
	for i := range 3 {
		ids = append(ids, tss.NewPartyID(fmt.Sprint(i), fmt.Sprint(i), big.NewInt(int64(i+1))))
	}
	return tss.SortPartyIDs(ids)
}

func tssChannels(n int) chan tss.Message { return make(chan tss.Message, 100*n*n) }

// tssECDSA signs 2 of 3 with tss-lib. Its safe primes come from the library's
// test data, which saves minutes; the key itself is made here.
type tssECDSA struct {
	keys []ecdsakeygen.LocalPartySaveData
	ids  tss.SortedPartyIDs
}

func newTSSECDSA() (*tssECDSA, error) {
	primes, _, err := ecdsakeygen.LoadKeygenTestFixtures(3)
	if err != nil {
		return nil, fmt.Errorf("the library's test data: %w", err)
	}
	ids := tssShares()
	ctx := tss.NewPeerContext(ids)
	out, end := tssChannels(len(ids)), make(chan *ecdsakeygen.LocalPartySaveData, len(ids))
	var parties []tss.Party
	for i := range ids {
		parties = append(parties, ecdsakeygen.NewLocalParty(tss.NewParameters(tss.S256(), ctx, ids[i], len(ids), 1), out, end, primes[i].LocalPreParams))
	}
	saved, err := tssRun(parties, out, end)
	if err != nil {
		return nil, err
	}
	t := &tssECDSA{ids: ids, keys: make([]ecdsakeygen.LocalPartySaveData, len(ids))}
	for _, k := range saved {
		i, err := k.OriginalIndex()
		if err != nil {
			return nil, err
		}
		t.keys[i] = *k
	}
	return t, nil
}

func (t *tssECDSA) sign(digest []byte) error {
	ids := t.ids[:2]
	ctx := tss.NewPeerContext(ids)
	out, end := tssChannels(2), make(chan *common.SignatureData, 2)
	var parties []tss.Party
	for i := range ids {
		params := tss.NewParameters(tss.S256(), ctx, ids[i], len(ids), 1)
		key := ecdsakeygen.BuildLocalSaveDataSubset(t.keys[i], ids)
		parties = append(parties, ecdsasigning.NewLocalParty(new(big.Int).SetBytes(digest), params, key, out, end))
	}
	_, err := tssRun(parties, out, end)
	return err
}

// tssEdDSA signs 2 of 3 with tss-lib.
type tssEdDSA struct {
	keys []eddsakeygen.LocalPartySaveData
	ids  tss.SortedPartyIDs
}

func newTSSEdDSA() (*tssEdDSA, error) {
	ids := tssShares()
	ctx := tss.NewPeerContext(ids)
	out, end := tssChannels(len(ids)), make(chan *eddsakeygen.LocalPartySaveData, len(ids))
	var parties []tss.Party
	for i := range ids {
		parties = append(parties, eddsakeygen.NewLocalParty(tss.NewParameters(tss.Edwards(), ctx, ids[i], len(ids), 1), out, end))
	}
	saved, err := tssRun(parties, out, end)
	if err != nil {
		return nil, err
	}
	t := &tssEdDSA{ids: ids, keys: make([]eddsakeygen.LocalPartySaveData, len(ids))}
	for _, k := range saved {
		i, err := k.OriginalIndex()
		if err != nil {
			return nil, err
		}
		t.keys[i] = *k
	}
	return t, nil
}

func (t *tssEdDSA) sign(message []byte) error {
	ids := t.ids[:2]
	ctx := tss.NewPeerContext(ids)
	out, end := tssChannels(2), make(chan *common.SignatureData, 2)
	var parties []tss.Party
	for i := range ids {
		params := tss.NewParameters(tss.Edwards(), ctx, ids[i], len(ids), 1)
		key := eddsakeygen.BuildLocalSaveDataSubset(t.keys[i], ids)
		parties = append(parties, eddsasigning.NewLocalParty(new(big.Int).SetBytes(message), params, key, out, end))
	}
	_, err := tssRun(parties, out, end)
	return err
}

// bytemareAccount is a dealt key of bytemare/frost.
type bytemareAccount struct {
	config *bytemare.Configuration
	shares []*keys.KeyShare
}

func newBytemare(threshold, n uint16) (*bytemareAccount, error) {
	shares, key, _ := debug.TrustedDealerKeygen(bytemare.Ed25519, nil, threshold, n)
	a := &bytemareAccount{shares: shares}
	var public []*keys.PublicKeyShare
	for _, s := range shares {
		public = append(public, s.Public())
	}
	a.config = &bytemare.Configuration{Ciphersuite: bytemare.Ed25519, Threshold: threshold, MaxSigners: n,
		VerificationKey: key, SignerPublicKeyShares: public}
	return a, a.config.Init()
}

// sign must not run concurrently: the library has a global hash state.
func (a *bytemareAccount) sign(message []byte) error {
	var signers []*bytemare.Signer
	var commitments bytemare.CommitmentList
	for _, s := range a.shares[:a.config.Threshold] {
		signer, err := a.config.Signer(s)
		if err != nil {
			return err
		}
		signers = append(signers, signer)
		commitments = append(commitments, signer.Commit())
	}
	commitments.Sort()
	var parts []*bytemare.SignatureShare
	for _, s := range signers {
		part, err := s.Sign(message, commitments)
		if err != nil {
			return err
		}
		parts = append(parts, part)
	}
	_, err := a.config.AggregateSignatures(message, parts, commitments, true)
	return err
}
