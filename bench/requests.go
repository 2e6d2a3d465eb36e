package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// throughVault measures requests to a real Vault on Raft storage.
func throughVault(ctx context.Context, o options, f *figures) error {
	fmt.Fprintf(os.Stderr, "  starting Vault with %d nodes on a SoftHSM token\n", o.nodes)
	s, err := startVault(ctx, o)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.waitNodes(o.nodes, false); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "  waiting for auxiliary keys, so that making them does not disturb")
	if err := s.waitNodes(o.nodes, true); err != nil {
		return err
	}
	for name, algorithm := range map[string]string{"bip340": "bip340-secp256k1", "ed25519": "ed25519", "ecdsa": "ecdsa-secp256k1", "p256": "ecdsa-p256"} {
		if _, err := s.write("mpc/accounts/"+name, map[string]any{"algorithm": algorithm, "threshold": 2, "shares": 3}); err != nil {
			return err
		}
	}
	for _, m := range s.schnorrLoads(o.floor != "") {
		if m.name == firstCreate {
			f.AccountsBefore, f.Before = s.accounts(), s.usage().rss
		}
		for _, clients := range []int{1, 4, 16} {
			if err := s.add(ctx, o, f, m, clients, o.cell, 0); err != nil {
				return err
			}
		}
	}
	if err := s.ecdsaLoads(ctx, o, f); err != nil {
		return err
	}
	if err := s.memory(ctx, o, f); err != nil {
		return err
	}
	return s.refreshAll(ctx, f)
}

// kindOf is one kind of request; against names the one it is compared with, for
// the same number of clients.
type kindOf struct {
	name, against string
	make          request
}

var input = base64.StdEncoding.EncodeToString([]byte("what is signed is as long as a digest")) // read only

func signing(path string) request {
	return func(int) (string, map[string]any) { return path, map[string]any{"input": input} }
}

// theFloor is bench/floor.
const theFloor = "plugin that does least"

// firstCreate is the first request that makes accounts: memory is read before
// it, when all processes have worked for a while.
const firstCreate = "create ed25519"

func (s *server) schnorrLoads(floor bool) []kindOf {
	signature := ""
	if answer, err := s.write("mpc/sign/ed25519", map[string]any{"input": input}); err == nil {
		signature, _ = answer["signature"].(string)
	}
	var mu sync.Mutex
	made := 0
	create := func(algorithm string) request {
		return func(int) (string, map[string]any) {
			mu.Lock()
			defer mu.Unlock()
			made++
			return "mpc/accounts/made-" + strconv.Itoa(made), map[string]any{"algorithm": algorithm, "threshold": 2, "shares": 3}
		}
	}
	kinds := []kindOf{
		{"transit ed25519", "", func(int) (string, map[string]any) {
			return "transit/sign/ed25519", map[string]any{"input": input}
		}},
		{"transit ecdsa-p256", "", func(int) (string, map[string]any) {
			return "transit/sign/ecdsa-p256", map[string]any{"input": input}
		}},
		{theFloor, "transit ed25519", signing("floor/sign")},
		{"sign ed25519", "transit ed25519", signing("mpc/sign/ed25519")},
		{"sign bip340", "transit ed25519", signing("mpc/sign/bip340")},
		{"sign bip340, child key", "transit ed25519", func(int) (string, map[string]any) {
			return "mpc/sign/bip340", map[string]any{"input": input, "derivation_path": "m/0/7", "taproot_tweak": "bip86"}
		}},
		{"verify ed25519", "transit ed25519", func(int) (string, map[string]any) {
			return "mpc/verify/ed25519", map[string]any{"input": input, "signature": signature}
		}},
		{firstCreate, "", create("ed25519")},
		{"create ecdsa-secp256k1", "", create("ecdsa-secp256k1")},
		// Each request refreshes another account, as the rotation does.
		{"refresh", "", func(n int) (string, map[string]any) {
			mu.Lock()
			defer mu.Unlock()
			return "mpc/accounts/made-" + strconv.Itoa(1+(n+made)%made) + "/refresh", map[string]any{}
		}},
	}
	if !floor {
		fmt.Fprintln(os.Stderr, "  the plugin that does least is not available: no -floor")
		kinds = slices.DeleteFunc(kinds, func(k kindOf) bool { return k.name == theFloor })
	}
	return kinds
}

// ecdsaLoads measures ECDSA without presignatures, and with them while the
// stock lasts.
func (s *server) ecdsaLoads(ctx context.Context, o options, f *figures) error {
	most := 6
	if o.quick {
		most = 1
	}
	for _, account := range []string{"ecdsa", "p256"} {
		for _, clients := range []int{1, 4} {
			if o.quick && (clients > 1 || account == "p256") {
				continue
			}
			k := kindOf{"sign " + account + ", nothing ahead", "transit ecdsa-p256", signing("mpc/sign/" + account)}
			if err := s.add(ctx, o, f, k, clients, time.Hour, most*clients); err != nil {
				return err
			}
		}
	}
	for _, clients := range []int{1, 4, 16} {
		count := o.stock
		if o.quick && clients > 1 {
			continue
		}
		if count < clients {
			count = clients
		}
		fmt.Fprintf(os.Stderr, "  making %d presignatures\n", min(count+1, 64))
		if _, err := s.write("mpc/accounts/ecdsa", map[string]any{"presign": min(count+1, 64)}); err != nil {
			return err
		}
		for {
			a, err := s.read("mpc/accounts/ecdsa")
			if err != nil {
				return err
			}
			if have, _ := a["presignatures"].(float64); int(have) >= min(count+1, 64) {
				break
			}
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
		// Otherwise the next ones would be made while these are measured.
		k := kindOf{"sign ecdsa, presigned", "transit ecdsa-p256", signing("mpc/sign/ecdsa")}
		if err := s.add(ctx, o, f, k, clients, time.Hour, min(count, 63)); err != nil {
			return err
		}
		if _, err := s.write("mpc/accounts/ecdsa", map[string]any{"presign": 0}); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *server) add(ctx context.Context, o options, f *figures, k kindOf, clients int, d time.Duration, most int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l, err := s.run(k.name, clients, d, most, k.make)
	if err != nil {
		return err
	}
	for _, other := range f.Requests {
		if other.Name == k.against && other.Clients == clients {
			l.Against, l.Ratio = k.against, l.Rate/other.Rate
		}
	}
	fmt.Fprintf(os.Stderr, "  %-28s %2d clients %8.1f /s\n", l.Name, l.Clients, l.Rate)
	f.Requests = append(f.Requests, l)
	return nil
}

// accounts counts them; 0 when Vault does not say.
func (s *server) accounts() int {
	list, err := s.read("mpc/accounts?list=true")
	if err != nil {
		return 0
	}
	names, _ := list["keys"].([]any)
	return len(names)
}

// memory fills the mount up to a number of accounts and reads what processes
// hold.
func (s *server) memory(ctx context.Context, o options, f *figures) error {
	have := s.accounts()
	if missing := o.accounts - have; missing > 0 {
		fmt.Fprintf(os.Stderr, "  making %d more accounts\n", missing)
		_, err := s.run("fill", 8, time.Hour, missing, func(n int) (string, map[string]any) {
			return fmt.Sprintf("mpc/accounts/fill-%d", n+1), map[string]any{"algorithm": "ed25519", "threshold": 2, "shares": 3}
		})
		if err != nil {
			return err
		}
		have = o.accounts
	}
	f.Accounts, f.Memory = have, s.usage().rss
	return ctx.Err()
}
