package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// scale is what it takes to refresh every account once, as fast as the nodes
// can.
type scale struct {
	Accounts int     `json:"accounts"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"per_second"`
	// CPU is processor time per account in milliseconds, by kind of process.
	CPU map[string]float64 `json:"cpu_ms"`
	// Entries is how many entries Raft's log grew by, per account.
	Entries float64 `json:"raft_entries_per_account"`
	// Written is how many KB Vault gave to the disk, per account; 0 where the
	// system does not say.
	Written float64 `json:"disk_kb_per_account"`
	// Data is Vault's folder and Objects the objects in the token, before and
	// after.
	Data    [2]float64         `json:"data_mb"`
	Objects [2]int             `json:"token_objects"`
	Memory  map[string]float64 `json:"memory_mb"`
}

// refreshAll has every account refreshed at once and measures it.
func (s *server) refreshAll(ctx context.Context, f *figures) error {
	r := &scale{Accounts: s.accounts(), CPU: map[string]float64{}}
	fmt.Fprintf(os.Stderr, "  refreshing %d accounts\n", r.Accounts)
	before, index, written := s.usage(), s.raftIndex(), s.written()
	r.Data[0], r.Objects[0] = s.dataMB(), s.tokenObjects()
	started := time.Now()
	if _, err := s.write("mpc/rotation/catch-up", map[string]any{"all": true}); err != nil {
		return err
	}
	for {
		conf, err := s.read("mpc/config/rotation")
		if err != nil {
			return err
		}
		state, _ := conf["catch_up"].(map[string]any)
		left, _ := state["remaining"].(float64)
		if done, _ := state["finished_time"].(string); done != "" && left == 0 {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	r.Seconds = time.Since(started).Seconds()
	n := float64(max(r.Accounts, 1))
	r.Rate = n / r.Seconds
	after := s.usage()
	for kind, cpu := range after.cpu {
		r.CPU[kind] = 1000 * (cpu - before.cpu[kind]) / n
	}
	r.Entries = float64(s.raftIndex()-index) / n
	r.Written = float64(s.written()-written) / 1e3 / n
	r.Data[1], r.Objects[1], r.Memory = s.dataMB(), s.tokenObjects(), after.rss
	f.Scale = r
	return nil
}

// raftIndex is the last index of Raft's log.
func (s *server) raftIndex() int64 {
	state, err := s.read("sys/storage/raft/autopilot/state")
	if err != nil {
		return 0
	}
	servers, _ := state["servers"].(map[string]any)
	for _, one := range servers {
		m, _ := one.(map[string]any)
		index, _ := m["last_index"].(float64)
		return int64(index)
	}
	return 0
}

// written is how many bytes Vault has given to the block layer.
func (s *server) written() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "write_bytes:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}

func (s *server) dataMB() float64 {
	var sum int64
	_ = filepath.WalkDir(filepath.Join(s.dir, "data"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return float64(sum) / 1e6
}

// tokenObjects counts SoftHSM's objects: one file each.
func (s *server) tokenObjects() int {
	files, _ := filepath.Glob(filepath.Join(s.dir, "tokens", "*", "*.object"))
	return len(files)
}

func printScale(w io.Writer, r *scale) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "\nRefreshing all of %d accounts at once: %.1f s, %.1f per second; per account %.1f Raft entries, %.1f KB to disk, CPU %.1f ms in nodes, %.1f in the plugin, %.1f in Vault\n",
		r.Accounts, r.Seconds, r.Rate, r.Entries, r.Written, r.CPU["node"], r.CPU["plugin"], r.CPU["vault"])
	fmt.Fprintf(w, "Vault's data %.1f → %.1f MB; objects in the token %d → %d; memory afterwards: plugin %.0f MB, largest node %.0f MB, Vault %.0f MB\n",
		r.Data[0], r.Data[1], r.Objects[0], r.Objects[1], r.Memory["plugin"], r.Memory["node"], r.Memory["vault"])
	if r.Accounts < fullSize {
		fmt.Fprintf(w, "EXTRAPOLATED on a straight line to %d accounts, not measured: %.0f s (ACCOUNTS=%d measures)\n",
			fullSize, fullSize/r.Rate, fullSize)
	}
}
