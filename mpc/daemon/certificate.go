package daemon

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/secret"
)

// certificateLife is that of a certificate that the node makes itself. It is long,
// because coordinators pin the key. In its second half `node serve` and `node enrol`
// renew it when they start, for the same key.
const certificateLife = 10 * 365 * 24 * time.Hour

// certificate is what the node shows, read again when its files change. All methods
// may be called concurrently.
type certificate struct {
	certPath, keyPath string
	logger            hclog.Logger

	mu    sync.Mutex // held over reading two small files
	stamp [2]stamp
	pair  *tls.Certificate
}

// stamp tells whether a file has changed.
type stamp struct {
	size    int64
	changed time.Time
	inode   uint64
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.Size(), info.ModTime(), inode(info)}, nil
}

// ensureCertificate makes a key and a certificate in the state directory where
// node.hcl names none and there are none, and renews an old one. It is called with
// the change lock held.
func ensureCertificate(d stateDir, s *Settings) error {
	if s.TLS.CertFile != "" {
		return nil
	}
	hasKey, err := d.has(keyFile)
	if err != nil {
		return err
	}
	hasCert, err := d.has(certificateFile)
	if err != nil {
		return err
	}
	if hasKey && hasCert {
		if !old(d) {
			return nil
		}
		return renewCertificate(d, s)
	}
	until := time.Now().Add(certificateLife)
	if !hasKey {
		cert, key, err := nodelink.NewCertificate(s.Name, until)
		if err != nil {
			return err
		}
		defer key.Wipe()
		// The key first: a certificate without it would be of no use.
		return errors.Join(d.write(keyFile, key.Expose()), d.write(certificateFile, cert))
	}
	return renewCertificate(d, s)
}

// old reports whether the certificate in the state directory is one of the node's own
// in the second half of its life, or of a time to come: it was made while this host's
// clock was ahead, and nobody would take it before then. What cannot be read is left for newCertificate to
// complain about.
func old(d stateDir) bool {
	raw, err := d.read(certificateFile)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && bytes.Equal(cert.RawIssuer, cert.RawSubject) &&
		(time.Until(cert.NotAfter) < certificateLife/2 || time.Now().Before(cert.NotBefore))
}

// renewCertificate makes a new certificate for the node's own key.
func renewCertificate(d stateDir, s *Settings) error {
	raw, err := d.read(keyFile)
	if err != nil {
		return err
	}
	key := secret.New(raw)
	defer key.Wipe()
	cert, err := nodelink.RenewCertificate(s.Name, key, time.Now().Add(certificateLife))
	if err != nil {
		return fmt.Errorf("%s: %w", d.path(keyFile), err)
	}
	return d.write(certificateFile, cert)
}

// newCertificate reads the certificate; a broken one is an error here only.
func newCertificate(d stateDir, s *Settings, logger hclog.Logger) (*certificate, error) {
	c := &certificate{certPath: s.TLS.CertFile, keyPath: s.TLS.KeyFile, logger: logger}
	if c.certPath == "" {
		c.certPath, c.keyPath = d.path(certificateFile), d.path(keyFile)
	}
	if err := private(c.keyPath); err != nil {
		return nil, err
	}
	if _, err := c.reload(true); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	return c, nil
}

// private refuses a file with a secret that others may read.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSettings, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s may be used by others than its owner (mode %04o): run chmod 0600 on it, and replace the key if somebody may have read it", ErrSettings, path, info.Mode().Perm())
	}
	return nil
}

// get returns the newest certificate that could be read. Files that are being
// replaced, or are wrong, leave the one before in use; that is logged.
func (c *certificate) get() (*tls.Certificate, error) {
	pair, err := c.reload(false)
	if err != nil && pair != nil {
		return pair, nil
	}
	return pair, err
}

// reload reads the files if they have changed, or always.
func (c *certificate) reload(always bool) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err := stampOf(c.certPath)
	if err != nil {
		return c.pair, err
	}
	key, err := stampOf(c.keyPath)
	if err != nil {
		return c.pair, err
	}
	now := [2]stamp{cert, key}
	if c.pair != nil && c.stamp == now && !always {
		return c.pair, nil
	}
	if err := private(c.keyPath); err != nil {
		return c.pair, c.complain(now, err)
	}
	pair, err := tls.LoadX509KeyPair(c.certPath, c.keyPath)
	if err != nil {
		return c.pair, c.complain(now, fmt.Errorf("%s and %s: %w", c.certPath, c.keyPath, err))
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return c.pair, c.complain(now, err)
		}
	}
	if c.pair != nil {
		old, fresh := nodelink.SPKI(c.pair.Leaf), nodelink.SPKI(pair.Leaf)
		if old != fresh {
			c.logger.Warn("the TLS key was replaced: coordinators that pin the old one need the new pin", "pin", hex.EncodeToString(fresh[:]))
		}
		if c.stamp != now {
			c.logger.Info("certificate read again", "valid_until", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	c.stamp, c.pair = now, &pair
	return c.pair, nil
}

// complain logs a fault once for each change of the files and returns it. The
// caller holds the lock.
func (c *certificate) complain(now [2]stamp, err error) error {
	if c.pair != nil && c.stamp != now {
		c.logger.Warn("a changed certificate cannot be used, the one before stays", "error", err)
		c.stamp = now
	}
	return err
}

// expires is when the present certificate ends.
func (c *certificate) expires() time.Time {
	pair, err := c.get()
	if err != nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

// pin is that of the present certificate.
func (c *certificate) pin() ([32]byte, error) {
	pair, err := c.get()
	if err != nil {
		return [32]byte{}, err
	}
	return nodelink.SPKI(pair.Leaf), nil
}
