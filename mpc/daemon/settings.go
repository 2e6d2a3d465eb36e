package daemon

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// ErrSettings marks faults that the operator mends in node.hcl or the files that
// it names; a restart would not help.
var ErrSettings = errors.New("settings")

// Settings is node.hcl.
type Settings struct {
	Path string // of the file

	// Name is the node's ID in every pool and session.
	Name string
	// Region and Zone are labels; empty for none.
	Region, Zone string
	// Domain is the wrapping domain of the token. Default "default": the keys of
	// the mount's local nodes, which the token then has to show.
	Domain string
	// Listen is host:port for coordinators. Default "0.0.0.0:8300".
	Listen string
	// StateDir is absolute. Default "/var/lib/mpc-node".
	StateDir string
	HSM      HSM
	TLS      TLS
	// Authority signs recipient sets; nil takes the one sent at enrolment.
	Authority ed25519.PublicKey
	// Telemetry is host:port for /healthz, /readyz and /metrics; empty for none.
	Telemetry string
	// DrainTimeout bounds what running sessions get after SIGTERM. Default 30 s.
	DrainTimeout time.Duration
	Switches     node.Switches
	// Peers are identities that no coordinator can change.
	Peers map[string]mpc.NodeIdentity
}

// HSM says which token to use.
type HSM struct {
	Module   string // absolute path of the PKCS#11 library
	InitArgs string // handed to it when it starts; NSS needs this
	Token    string // label; empty where Serial is given
	Serial   string
	PINFile  string // absolute path, readable by its owner only
	// AllowSHA1 lets the token use RSA-OAEP with SHA-1, for tests with SoftHSM.
	AllowSHA1 bool
}

// TLS names files that replace what the state directory holds; absolute paths.
type TLS struct {
	CertFile, KeyFile string // both or none; PEM
	// ClientCAFile: coordinators are then known by a certificate that one of these
	// signed for the name that enrolled, and not by a pinned key.
	ClientCAFile string
}

// Bounds and defaults.
const (
	maxSettings         = 256 << 10 // bytes of node.hcl
	maxStateDir         = 80        // bytes; the path of a Unix socket in it has at most 107
	maxDrain            = time.Hour
	defaultListen       = "0.0.0.0:8300"
	defaultStateDir     = "/var/lib/mpc-node"
	defaultDrainTimeout = 30 * time.Second
)

// operations are those that a switch can name.
var operations = [...]string{"keygen", "refresh", "sign", "presign", "rewrap", "import", "login"}

// LoadSettings reads node.hcl. Errors wrap ErrSettings and name the file, the line,
// the key and what to write.
func LoadSettings(path string) (*Settings, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSettings {
		return nil, fmt.Errorf("%w: %s is not a file of at most %d bytes", ErrSettings, path, maxSettings)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	return ParseSettings(path, text)
}

// ParseSettings reads the text of node.hcl; path is for messages.
func ParseSettings(path string, text []byte) (*Settings, error) {
	s := &Settings{Path: path, Domain: hsm.DefaultDomain, Listen: defaultListen, StateDir: defaultStateDir,
		DrainTimeout: defaultDrainTimeout, Peers: map[string]mpc.NodeIdentity{}}
	d, err := parseDocument(path, text)
	if err == nil {
		err = d.read(s.fields())
	}
	if err == nil {
		err = s.complete(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	return s, nil
}

// fields is the table of every key that node.hcl may have.
func (s *Settings) fields() fields {
	return fields{
		"name":          text(&s.Name, validRemoteName, nameRule+", but not local-1 and the like, which are nodes on Vault's host"),
		"region":        text(&s.Region, nodelink.ValidLabel, labelRule),
		"zone":          text(&s.Zone, nodelink.ValidLabel, labelRule),
		"domain":        text(&s.Domain, nodelink.ValidName, nameRule),
		"listen":        text(&s.Listen, validAddress, addressRule),
		"state_dir":     text(&s.StateDir, cleanPath, pathRule),
		"authority":     parsed(&s.Authority, parseAuthority, "the authority's Ed25519 public key, 64 hex digits"),
		"drain_timeout": parsed(&s.DrainTimeout, parseDrain, `a time up to 1h, such as "30s"`),
		"hsm": block(fields{
			"module":     text(&s.HSM.Module, cleanPath, pathRule),
			"init_args":  text(&s.HSM.InitArgs, nil, ""),
			"token":      text(&s.HSM.Token, nil, ""),
			"serial":     text(&s.HSM.Serial, nil, ""),
			"pin_file":   text(&s.HSM.PINFile, cleanPath, pathRule),
			"allow_sha1": truth(&s.HSM.AllowSHA1),
		}),
		"tls": block(fields{
			"cert_file":      text(&s.TLS.CertFile, cleanPathOrNone, pathRule),
			"key_file":       text(&s.TLS.KeyFile, cleanPathOrNone, pathRule),
			"client_ca_file": text(&s.TLS.ClientCAFile, cleanPathOrNone, pathRule),
		}),
		"telemetry": block(fields{"listen": text(&s.Telemetry, validAddress, addressRule)}),
		"switches": block(fields{
			"require_policy":     truth(&s.Switches.RequirePolicy),
			"require_spread":     truth(&s.Switches.RequireSpread),
			"operations":         list(&s.Switches.Operations, parseOperation, "out of keygen, refresh, sign, presign, rewrap, import, login"),
			"algorithms":         list(&s.Switches.Algorithms, parseAlgorithm, "names of algorithms, such as ed25519 or ecdsa-secp256k1"),
			"keep_wrapping_keys": truth(&s.Switches.KeepWrappingKeys),
		}),
		"peer": labelled(nodelink.ValidName, nameRule, func(name string) (fields, error) {
			if _, twice := s.Peers[name]; twice {
				return nil, errors.New("is there twice; keep one")
			}
			s.Peers[name] = mpc.NodeIdentity{}
			return fields{"identity": func(v value) error {
				id, err := single(v, mpc.ParseNodeIdentity, "the node's identity, 64 hex digits, as `vault read mpc/nodes/"+name+"` shows it")
				s.Peers[name] = id
				return err
			}}, nil
		}),
	}
}

// complete checks what no single key shows.
func (s *Settings) complete(path string) error {
	missing := func(key, write string) error { return fmt.Errorf("%s: %s is missing: write %s", path, key, write) }
	switch {
	case s.Name == "":
		return missing("name", `the node's name, for example name = "eu-1"`)
	case s.HSM.Module == "":
		return missing("hsm.module", `the PKCS#11 library, for example module = "/usr/lib/softhsm/libsofthsm2.so"`)
	case s.HSM.Token == "" && s.HSM.Serial == "":
		return missing("hsm.token", "the token's label, or its serial number in hsm.serial")
	case s.HSM.PINFile == "":
		return missing("hsm.pin_file", `a file with the token's user PIN, for example pin_file = "/etc/mpc-node/pin"`)
	case (s.TLS.CertFile == "") != (s.TLS.KeyFile == ""):
		return fmt.Errorf("%s: tls.cert_file and tls.key_file go together: write both, or none for a certificate of the node's own", path)
	case len(s.StateDir) > maxStateDir:
		return fmt.Errorf("%s: state_dir has %d bytes: write a path of at most %d, since a socket in it has a short limit", path, len(s.StateDir), maxStateDir)
	}
	for name, id := range s.Peers {
		if id == (mpc.NodeIdentity{}) {
			return missing("peer \""+name+"\".identity", "64 hex digits")
		}
		if name == s.Name {
			return fmt.Errorf("%s: peer %q is this node itself: remove it", path, name)
		}
	}
	return nil
}

const (
	nameRule    = "1 to 48 characters out of a-z, 0-9, dot, dash and underscore, a letter or digit first"
	labelRule   = nameRule + ", or nothing"
	pathRule    = "an absolute path without dot segments"
	addressRule = `host:port, for example "0.0.0.0:8300"`
)

// validRemoteName refuses the names that the mount gives to its local nodes.
func validRemoteName(s string) bool {
	number, local := strings.CutPrefix(s, "local-")
	return nodelink.ValidName(s) && !(local && number != "" && strings.Trim(number, "0123456789") == "")
}

func cleanPath(s string) bool       { return filepath.IsAbs(s) && filepath.Clean(s) == s }
func cleanPathOrNone(s string) bool { return s == "" || cleanPath(s) }

func validAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

func parseAuthority(s string) (ed25519.PublicKey, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("malformed")
	}
	return b, nil
}

func parseDrain(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDrain {
		return 0, errors.New("malformed")
	}
	return d, nil
}

func parseOperation(s string) (string, error) {
	if !slices.Contains(operations[:], s) {
		return "", errors.New("unknown")
	}
	return s, nil
}

func parseAlgorithm(s string) (mpc.Algorithm, error) {
	if a := mpc.Algorithm(s); a.Valid() {
		return a, nil
	}
	return "", errors.New("unknown")
}
