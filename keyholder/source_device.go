package keyholder

import (
	"context"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// Keyring keeps a secret for this user of this device. Where says where, for
// people. Get returns ErrNoSecret for one that is not there.
type Keyring interface {
	Set(name string, s *secret.Bytes) error
	Get(name string) (*secret.Bytes, error)
	Delete(name string) error
	Where() string
}

// ErrNoSecret: the keyring has no secret of that name.
var ErrNoSecret = errors.New("keyholder: this device keeps no secret of that name")

type deviceSource struct {
	asker
	ring Keyring
}

// Device takes the information from the keyring of this device.
func Device(p Prompter, ring Keyring) Source { return deviceSource{asker{p}, ring} }

func (deviceSource) Method() identity.Method { return identity.Device }

func (s deviceSource) New(_ context.Context, n *Registering) (*secret.Bytes, error) {
	// Never over another one: that would lock its authenticator out.
	if have, err := s.ring.Get(n.Name); err == nil {
		have.Wipe()
		return nil, fmt.Errorf("%s keeps a secret for authenticator %s already: nothing was made; take another name, or forget the old one with 'mpckms authenticator delete'", s.ring.Where(), n.Name)
	} else if !errors.Is(err, ErrNoSecret) {
		return nil, err
	}
	info := random(informationSize)
	if err := s.ring.Set(n.Name, info); err != nil {
		info.Wipe()
		return nil, fmt.Errorf("%s did not take the secret, so nothing was made: %w", s.ring.Where(), err)
	}
	back, err := s.ring.Get(n.Name)
	defer back.Wipe()
	if err != nil || !back.Equal(info) {
		info.Wipe()
		return nil, errors.Join(fmt.Errorf("%s does not give back the secret that it took, so nothing was made", s.ring.Where()), err, s.ring.Delete(n.Name))
	}
	return info, nil
}

// Undo forgets what New stored for an authenticator that was not made after all.
func (s deviceSource) Undo(n *Registering) error { return s.ring.Delete(n.Name) }

func (s deviceSource) Get(_ context.Context, c *Challenge) (*Answer, error) {
	info, err := s.ring.Get(c.Name)
	if errors.Is(err, ErrNoSecret) {
		return nil, fmt.Errorf("%s has nothing for authenticator %s: it was made on another device or by another user: %w", s.ring.Where(), c.Name, err)
	}
	return &Answer{Information: info}, err
}
