package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
)

// operation is one row of the table of operations in one process.
type operation struct {
	Name  string  `json:"name"`
	Who   string  `json:"who"`
	CPU   float64 `json:"cpu_ms"` // all parties together
	Count int     `json:"count"`
	Alloc float64 `json:"alloc_kb"`
	// Against names the row it is compared with; Ratio is CPU over that one's.
	Against string  `json:"against,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// measured is an operation to measure. prepare, where not nil, runs before
// every call and is not counted.
type measured struct {
	name, who, against string
	prepare            func() error
	run                func() error
	once               bool // costs seconds: a few are enough
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (m measured) measure(ctx context.Context, o options) (operation, error) {
	op := operation{Name: m.name, Who: m.who, Against: m.against}
	for _, step := range []func() error{m.prepare, m.run} { // once uncounted
		if m.once && o.quick {
			break
		}
		if step != nil {
			if err := step(); err != nil {
				return op, fmt.Errorf("%s, %s: %w", m.name, m.who, err)
			}
		}
	}
	var cpu time.Duration
	var memory uint64
	for started := time.Now(); ctx.Err() == nil; {
		if m.prepare != nil {
			if err := m.prepare(); err != nil {
				return op, fmt.Errorf("%s, %s: %w", m.name, m.who, err)
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		from := cpuTime()
		if err := m.run(); err != nil {
			return op, fmt.Errorf("%s, %s: %w", m.name, m.who, err)
		}
		cpu += cpuTime() - from
		runtime.ReadMemStats(&after)
		memory += after.TotalAlloc - before.TotalAlloc
		op.Count++
		if enough := op.Count >= 3 || o.quick; enough && (m.once || time.Since(started) > o.cell/2) {
			break
		}
	}
	op.CPU = float64(cpu) / 1e6 / float64(op.Count)
	op.Alloc = float64(memory) / 1e3 / float64(op.Count)
	return op, ctx.Err()
}

// inProcess measures the engine's parties and the raw libraries, 2 of 3, all
// parties one after the other.
func inProcess(ctx context.Context, o options) ([]operation, error) {
	list, err := operations(o)
	if err != nil {
		return nil, err
	}
	var out []operation
	by := map[string]float64{}
	for _, m := range list {
		op, err := m.measure(ctx, o)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %-28s %-22s %9.2f ms\n", op.Name, op.Who, op.CPU)
		by[op.Name+op.Who] = op.CPU
		if against := by[op.Name+op.Against]; against > 0 {
			op.Ratio = op.CPU / against
		}
		out = append(out, op)
	}
	return out, nil
}

const (
	theEngine = "engine"
	theMPS    = "multi-party-sig"
	theTSS    = "tss-lib"
	theFrost  = "bytemare/frost"
	oneKey    = "one key, no threshold"
	inSession = "engine, sealed session"
)

func operations(o options) ([]measured, error) {
	message := []byte("what is signed is as long as a digest")
	digest := sha256.Sum256(message)
	accounts := map[mpc.Algorithm]*engine{}
	for _, a := range mpc.Algorithms() {
		e, err := newEngine(a, 2, 3)
		if err != nil {
			return nil, err
		}
		accounts[a] = e
	}
	raw, err := rawKeygen(true, 2, 3)
	if err != nil {
		return nil, err
	}
	bytemare, err := newBytemare(2, 3)
	if err != nil {
		return nil, err
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	nodes, err := identities(2)
	if err != nil {
		return nil, err
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var list []measured
	add := func(name, who, against string, run func() error) {
		list = append(list, measured{name: name, who: who, against: against, run: run})
	}
	// The libraries' refresh changes shares in place: a fresh key each time.
	var rawKeys map[party.ID]any
	add("create, secp256k1", theMPS, "", func() error { _, err := rawKeygen(true, 2, 3); return err })
	for _, a := range mpc.Algorithms() {
		against := ""
		if a == mpc.BIP340Secp256k1 {
			against = theMPS
		}
		name := "create, " + string(a)
		if against != "" {
			name = "create, secp256k1"
		}
		add(name, theEngine, against, func() error { _, err := newEngine(a, 2, 3); return err })
	}
	list = append(list, measured{name: "refresh, secp256k1", who: theMPS,
		prepare: func() (err error) { rawKeys, err = rawKeygen(true, 2, 3); return err },
		run:     func() error { _, err := rawRefresh(rawKeys); return err }})
	for _, a := range mpc.Algorithms() {
		name, against := "refresh, "+string(a), ""
		if a == mpc.BIP340Secp256k1 {
			name, against = "refresh, secp256k1", theMPS
		}
		add(name, theEngine, against, func() error { _, err := accounts[a].refresh(); return err })
	}
	add("sign BIP-340", theMPS, "", func() error { return rawTaproot(raw, 2, message) })
	add("sign BIP-340", theEngine, theMPS, func() error { return accounts[mpc.BIP340Secp256k1].schnorr(message) })
	add("sign BIP-340", inSession, theMPS, func() error { return accounts[mpc.BIP340Secp256k1].schnorrSealed(nodes, message) })
	add("sign Ed25519", oneKey, "", func() error { ed25519.Sign(ed, message); return nil })
	add("sign Ed25519", theFrost, "", func() error { return bytemare.sign(message) })
	if eddsa, err := newTSSEdDSA(); err == nil {
		add("sign Ed25519", theTSS, theFrost, func() error { return eddsa.sign(message) })
	} else {
		fmt.Fprintln(os.Stderr, "  tss-lib EdDSA is not available:", err)
	}
	add("sign Ed25519", theEngine, theFrost, func() error { return accounts[mpc.Ed25519].schnorr(message) })
	add("sign Ed25519", inSession, theFrost, func() error { return accounts[mpc.Ed25519].schnorrSealed(nodes, message) })
	add("sign ECDSA", oneKey, "", func() error { _, err := ecdsa.SignASN1(rand.Reader, p256, digest[:]); return err })
	if o.quick {
		return list, nil
	}
	slow, err := slowOperations(accounts, message, digest[:])
	return append(list, slow...), err
}

// slowOperations are those of CMP: seconds of CPU each, and before them.
func slowOperations(accounts map[mpc.Algorithm]*engine, message, digest []byte) ([]measured, error) {
	fmt.Fprintln(os.Stderr, "  making auxiliary keys and a raw CMP key: about half a minute")
	keys, err := newAux(2)
	if err != nil {
		return nil, err
	}
	raw, err := rawCMPKeys()
	if err != nil {
		return nil, err
	}
	var list []measured
	add := func(name, who, against string, run func() error) {
		list = append(list, measured{name: name, who: who, against: against, run: run, once: true})
	}
	add("sign ECDSA secp256k1", theMPS, "", func() error { return rawCMPSign(raw, digest) })
	add("sign ECDSA secp256k1", theEngine, theMPS, func() error { return accounts[mpc.ECDSASecp256k1].ecdsa(keys, message) })
	if tss, err := newTSSECDSA(); err == nil {
		add("sign ECDSA secp256k1", theTSS, theMPS, func() error { return tss.sign(digest) })
	} else {
		fmt.Fprintln(os.Stderr, "  tss-lib ECDSA is not available:", err)
	}
	add("sign ECDSA P-256", theEngine, "", func() error { return accounts[mpc.ECDSAP256].ecdsa(keys, message) })
	var rawPre map[party.ID]any
	var pre map[mpc.Index]*cmp.Presignature
	add("presign secp256k1", theMPS, "", func() (err error) { rawPre, err = rawPresign(raw); return err })
	add("presign secp256k1", theEngine, theMPS, func() (err error) { pre, err = accounts[mpc.ECDSASecp256k1].presign(keys); return err })
	list = append(list,
		measured{name: "presigned, last step", who: theMPS, run: func() error { return rawOnline(raw, rawPre, digest) },
			prepare: func() (err error) { rawPre, err = rawPresign(raw); return err }, once: true},
		measured{name: "presigned, last step", who: theEngine, against: theMPS, run: func() error { return accounts[mpc.ECDSASecp256k1].online(pre, message) },
			prepare: func() (err error) { pre, err = accounts[mpc.ECDSASecp256k1].presign(keys); return err }, once: true})
	return list, nil
}
