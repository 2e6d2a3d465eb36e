//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// goldenDir holds one folder per version of the storage format, each with one
// record of every type.
const goldenDir = "../../testdata/golden/"

// goldenOf names the golden file of a stored key.
func goldenOf(key string) string {
	for prefix, file := range map[string]string{
		"mount": "mount", "config/hsm": "hsm", "config/nodes": "nodes", "config/rotation": "rotation",
		"wrapping-keys/": "wrapping-key", "node-keys/": "node-keys", "accounts/": "account", "exposures/": "exposures",
		"heartbeat": "heartbeat", "spares": "spares",
	} {
		if key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix) {
			return file + ".json"
		}
	}
	return ""
}

// TestUpgraded: a mount's storage is brought into the form of each older
// version, field by field as its golden records show it, and the plugin is
// started on it. The keys in it are real, so everything must sign.
func TestUpgraded(t *testing.T) {
	l := newLifecycle(t, "upgraded")
	c := newClient(t, l.Vault, l.path)
	// Golden files and stored records both say which version they are of.
	current := storedVersion(t, l.RawRead(t, l.path, "mount"))
	tested := 0
	// Newest first: what nothing has rewritten stays in the form it has, so
	// that the last start is on records of several versions.
	for version := current - 1; version >= 1; version-- {
		dir := fmt.Sprintf("%sstorage-v%d", goldenDir, version)
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		tested++
		t.Run(fmt.Sprintf("from version %d", version), func(t *testing.T) {
			before := map[string]string{}
			for path := range settings {
				before[path] = l.settings(t, path)
			}
			family := l.family(t)
			l.downgrade(t, version, dir)
			if r := l.CLI(t, "write", "sys/plugins/reload/backend", "mounts="+l.path); r.Code != 0 {
				t.Fatalf("reload: %+v", r)
			}
			e2e.WaitGone(t, family, gone)
			l.verify(t, fmt.Sprintf("with storage of version %d", version))
			l.waitNodes(t, 3)
			for path := range settings {
				// What is not stored any more had the default.
				if after := l.settings(t, path); after != before[path] {
					t.Errorf("%s: %s, before %s", path, after, before[path])
				}
			}
			_, err := os.Stat(filepath.Join(dir, "heartbeat.json"))
			hadHeartbeat := err == nil
			for _, name := range l.ledger.names() {
				// Without a heartbeat storage may have been restored.
				if l.read(t, "accounts/"+name)["spares_allowed"] != hadHeartbeat {
					t.Errorf("%s: spares_allowed is %v", name, !hadHeartbeat)
				}
				if err := l.ledger.refresh(t.Context(), c, name); err != nil {
					t.Errorf("refreshing %s: %v", name, err)
				}
				if got := storedVersion(t, l.RawRead(t, l.path, "accounts/"+name)); got != current {
					t.Errorf("%s is stored in version %d after its refresh, want %d", name, got, current)
				}
				if l.read(t, "accounts/"+name)["spares_allowed"] != true {
					t.Errorf("%s may not use spares after its refresh", name)
				}
			}
			l.verify(t, fmt.Sprintf("refreshed from version %d", version))
		})
	}
	if tested == 0 {
		t.Fatal("no older version was found")
	}
}

// settings are the fields of a configuration that the operator chooses.
var settings = map[string][]string{
	"config/nodes":    {"local", "session_timeout", "sessions_per_node"},
	"config/rotation": {"refresh_period", "idle_refresh_period", "aux_period", "rewrap_period", "retire_after", "concurrency", "rate"},
}

func (l *lifecycle) settings(t testing.TB, path string) string {
	t.Helper()
	all, chosen := l.read(t, path), []string{}
	for _, field := range settings[path] {
		value, ok := all[field]
		if !ok {
			t.Errorf("%s has no %s", path, field)
		}
		chosen = append(chosen, fmt.Sprintf("%s=%v", field, value))
	}
	return strings.Join(chosen, " ")
}

// downgrade rewrites every record in the form of an older version and removes
// those of types that it did not have.
func (l *lifecycle) downgrade(t *testing.T, version int, dir string) {
	t.Helper()
	uses := map[string]int{}
	keys := l.RawList(t, l.path)
	// The heartbeat last: the running plugin writes it once a minute.
	slices.SortFunc(keys, func(a, b string) int { return strings.Compare(goldenOf(b), goldenOf(a)) })
	slices.SortStableFunc(keys, func(a, b string) int {
		return map[bool]int{true: 1}[a == "heartbeat"] - map[bool]int{true: 1}[b == "heartbeat"]
	})
	for _, key := range keys {
		file := goldenOf(key)
		if file == "" {
			t.Logf("%s: of no type that older versions have", key)
			l.RawDelete(t, l.path, key)
			continue
		}
		if version == 1 && strings.HasPrefix(key, "node-keys/") && !strings.HasSuffix(key, "-3") {
			// Keys of unknown age are made anew, which costs tens of seconds of
			// processor time: one node's will do.
			continue
		}
		golden, err := os.ReadFile(filepath.Join(dir, file))
		if os.IsNotExist(err) {
			l.RawDelete(t, l.path, key)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		stored := l.RawRead(t, l.path, key)
		if storedVersion(t, stored) <= version {
			continue
		}
		old := older(decodeJSON(t, stored), decodeJSON(t, golden)).(map[string]any)
		old["version"] = version
		value, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		l.RawWrite(t, l.path, key, value)
		uses[file]++
	}
	for _, file := range []string{"mount.json", "hsm.json", "nodes.json", "wrapping-key.json", "node-keys.json", "account.json"} {
		if uses[file] == 0 {
			t.Errorf("no record of the type of %s was rewritten", file)
		}
	}
}

// older returns a value without the fields that the golden one does not have.
// Maps whose keys are data stay as they are.
func older(value, golden any) any {
	switch golden := golden.(type) {
	case map[string]any:
		fields, ok := value.(map[string]any)
		if !ok {
			return value
		}
		out := map[string]any{}
		for name, v := range fields {
			like, known := golden[name]
			switch {
			case !known:
			case slices.Contains([]string{"exposures", "receipts", "metadata"}, name):
				out[name] = v
			default:
				out[name] = older(v, like)
			}
		}
		return out
	case []any:
		list, ok := value.([]any)
		if !ok || len(golden) == 0 {
			return value
		}
		out := make([]any, len(list))
		for i, v := range list {
			out[i] = older(v, golden[0])
		}
		return out
	}
	return value
}

func decodeJSON(t testing.TB, raw []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func storedVersion(t testing.TB, raw []byte) int {
	t.Helper()
	fields, _ := decodeJSON(t, raw).(map[string]any)
	return number(t, fields["version"])
}
