package backend

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// Records of nodes on other hosts:
//
//	config/remote-nodes/<node id>  remoteNodeRecord
//	config/coordinator             coordinatorRecord  holds a private key; seal-wrapped
const (
	keyCoordinator = prefixConfig + "coordinator"

	maxNodeName    = 48 // bytes; of nodes, domains, regions and zones
	maxRemoteNodes = 64
	maxTLSText     = 64 << 10 // bytes of PEM
)

// remoteNodeRecord is a node on another host as it was enrolled. The identity
// never changes under an ID.
type remoteNodeRecord struct {
	sinceV6
	Version int    `json:"version"`
	ID      string `json:"id"`
	Address string `json:"address"` // host:port
	// Region, Zone and Domain are what the node said of itself.
	Region   string `json:"region,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Domain   string `json:"domain"`
	Identity string `json:"identity"` // Ed25519 public key, hex
	// Pin is SHA-256 of the public key of the node's TLS certificate, hex. Where CA
	// is set, the certificate is checked by it instead and is for ServerName.
	Pin        string    `json:"pin"`
	CA         string    `json:"ca,omitempty"` // PEM
	ServerName string    `json:"server_name,omitempty"`
	Enrolled   time.Time `json:"enrolled_time"`
}

// coordinatorRecord is how this mount shows itself to nodes on other hosts.
type coordinatorRecord struct {
	sinceV6
	Version     int       `json:"version"`
	Certificate string    `json:"certificate"` // PEM
	Key         string    `json:"private_key"` // PKCS#8 in PEM
	Made        bool      `json:"made"`        // by this engine, not brought by an operator
	Updated     time.Time `json:"updated_time"`
}

// String and GoString keep the key out of every formatted output.
func (r *coordinatorRecord) String() string   { return "coordinator certificate" }
func (r *coordinatorRecord) GoString() string { return r.String() }

// client returns it for the pool; the key is a copy for the pool to own.
func (r *coordinatorRecord) client() pool.ClientCertificate {
	return pool.ClientCertificate{Certificate: []byte(r.Certificate), Key: secret.New([]byte(r.Key))}
}

func (r *remoteNodeRecord) check() error {
	if _, err := mpc.ParseNodeIdentity(r.Identity); err != nil {
		return err
	}
	if err := checkRemoteID(r.ID); err != nil {
		return err
	}
	if err := checkDomain(r.Domain); err != nil {
		return err
	}
	if r.Address == "" {
		return errors.New("lacks its address")
	}
	var pin [32]byte
	return decodeHex(r.Pin, pin[:], "pin")
}

func (r *coordinatorRecord) check() error {
	if r.Certificate == "" || r.Key == "" {
		return errors.New("lacks certificate or key")
	}
	return nil
}

// Version 5 knew local nodes only, and no regions.
func (r *nodesRecord) fromV5() error {
	if r.Region != "" || r.Local < minLocalNodes {
		return errNotItsVersion
	}
	return nil
}

// node returns the record for the pool.
func (r *remoteNodeRecord) node() (pool.RemoteNode, error) {
	n := pool.RemoteNode{ID: r.ID, Address: r.Address, Region: r.Region, Zone: r.Zone, Domain: r.Domain,
		CA: []byte(r.CA), ServerName: r.ServerName}
	var err error
	if n.Identity, err = mpc.ParseNodeIdentity(r.Identity); err != nil {
		return n, err
	}
	if r.CA == "" {
		err = decodeHex(r.Pin, n.Pin[:], "pin")
	}
	return n, err
}

var (
	nodeName  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`) // read only
	localName = regexp.MustCompile(`^local-[0-9]+$`)         // read only
)

// nodeNames says in words what names of nodes, domains, regions and zones are.
const nodeNames = "up to 48 of a-z, 0-9, dot, dash and underscore, with a letter or digit first"

// checkRemoteID says what is wrong with the name of a node on another host.
func checkRemoteID(id string) error {
	switch {
	case len(id) > maxNodeName || !nodeName.MatchString(id):
		return fmt.Errorf("%q is not a name for a node: use %s", clip(id), nodeNames)
	case localName.MatchString(id):
		return fmt.Errorf("%q is kept for nodes on Vault's own host: choose another name in the node's configuration", id)
	}
	return nil
}

// checkDomain says what is wrong with the name of a wrapping domain. A colon sets
// recovery recipients apart, which envelopes name in the same place.
func checkDomain(name string) error {
	if len(name) > min(maxNodeName, hsm.MaxDomain) || !nodeName.MatchString(name) {
		return fmt.Errorf("%q is not a name for a wrapping domain: use %s, so no colon and nothing like recovery:NAME", clip(name), nodeNames)
	}
	return nil
}

// checkLabel says what is wrong with a region or zone; empty is none.
func checkLabel(what, name string) error {
	if name != "" && (len(name) > maxNodeName || !nodeName.MatchString(name)) {
		return fmt.Errorf("%q is not a name for a %s: use %s", clip(name), what, nodeNames)
	}
	return nil
}

// checkAddress demands host:port, as dialling needs it.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || n == 0 || len(address) > 300 || strings.ContainsAny(host, " /@\t\n") {
		return fmt.Errorf("address %q is not HOST:PORT: for example eu-1.example.com:8300", clip(address))
	}
	return nil
}
