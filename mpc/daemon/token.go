package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/node"
)

// OpenToken loads a module and logs in; it copies the PIN.
type OpenToken func(ctx context.Context, c pkcs11.Config) (node.Token, error)

// openToken opens the host's token once. A PIN that is refused is not tried again
// by anybody: the daemon ends and stays down, since tokens lock.
func openToken(ctx context.Context, s *Settings, open OpenToken) (node.Token, error) {
	pin, err := modules.Module{Name: "hsm", Path: s.HSM.Module, PINFile: s.HSM.PINFile}.ReadPIN()
	if err != nil {
		return nil, fmt.Errorf("%w: hsm.pin_file: %w", ErrSettings, err)
	}
	defer pin.Wipe()
	return open(ctx, pkcs11.Config{
		Module: s.HSM.Module, InitArgs: s.HSM.InitArgs, AllowSHA1: s.HSM.AllowSHA1,
		Label: s.HSM.Token, Serial: s.HSM.Serial, PIN: pin,
	})
}

// lent is the token as a node has it: attachments come and go, the token stays.
type lent struct{ node.Token }

func (lent) Close() error { return nil }

// How the token is watched.
const (
	lookEvery   = 2 * time.Second
	lookTimeout = 5 * time.Second
	// awayLimit is how long a token may be away before the process ends, for the
	// service manager to start a new one: many modules recover in a new process only.
	awayLimit = 30 * time.Second
)

// tokenWatch is what is known of the token. All methods may be called concurrently.
type tokenWatch struct {
	mu   sync.Mutex
	err  error
	away time.Time // since when; zero while it is there
}

func (w *tokenWatch) state() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// look asks the token once and returns an error where the process has to end.
func (w *tokenWatch) look(ctx context.Context, token node.Token, identity hsm.WrappingKey, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var err error
	if alive, ok := token.(interface{ Alive(context.Context) error }); ok {
		err = alive.Alive(ctx)
	} else {
		err = token.Bind(ctx, identity)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	if err == nil {
		w.away = time.Time{}
		return nil
	}
	if w.away.IsZero() {
		w.away = now()
	}
	switch {
	case errors.Is(err, hsm.ErrPINIncorrect), errors.Is(err, hsm.ErrPINLocked):
		return fmt.Errorf("the token refused the PIN: %w", err)
	case errors.Is(err, hsm.ErrNewProcess):
		return fmt.Errorf("the token needs a new process: %w", err)
	case now().Sub(w.away) >= awayLimit:
		return fmt.Errorf("%w: the token has been away for %s, a new process may find it: %w", hsm.ErrUnavailable, awayLimit, err)
	}
	return nil
}

// watch looks until ctx ends, or returns why the process has to.
func (w *tokenWatch) watch(ctx context.Context, token node.Token, identity hsm.WrappingKey) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		if err := w.look(ctx, token, identity, time.Now); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
