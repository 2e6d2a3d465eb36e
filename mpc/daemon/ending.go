package daemon

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// drain lets what runs finish.
func (d *daemon) drain(failed context.Context) {
	d.server.drain()
	limit := d.cfg.Settings.DrainTimeout
	d.cfg.Logger.Info("the node drains: it takes nothing new and ends when what runs has finished", "sessions", d.status().Sessions, "at_most", limit.String())
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.busy() {
		select {
		case <-tick.C:
		case <-failed.Done():
			return
		case <-timer.C:
			d.cfg.Logger.Warn("sessions were ended: drain_timeout is over", "sessions", d.status().Sessions)
			return
		}
	}
	d.cfg.Logger.Info("drained")
}

func (d *daemon) busy() bool {
	n := d.server.attached()
	return n != nil && n.Sessions() > 0 || d.calls.Load() > 0
}

// close ends everything; d may be half prepared.
func (d *daemon) close() error {
	var errs []error
	for _, s := range d.http {
		errs = append(errs, s.Close())
	}
	if d.server != nil {
		d.server.detach(nil) // sessions end and say so
	}
	clean := d.grpc == nil || d.stopGRPC()
	d.jobs.Wait()
	if d.server != nil {
		d.server.detach(nil)
		d.server.closing.Wait()
	}
	if clean { // else a call that hangs could still sign with it
		secret.Wipe(d.private)
	}
	if d.floor != nil {
		errs = append(errs, d.floor.Close())
	}
	if d.token != nil {
		if err := d.token.Close(); err != nil {
			// The end of the process ends the login; nothing is lost by it.
			d.cfg.Logger.Warn("the token was not left cleanly", "error", err)
		}
	}
	return errors.Join(errs...)
}

// lastWords is how long what was sent last may take to leave.
const lastWords = 2 * time.Second

// stopGRPC lets the last answers out before it closes connections. It returns
// whether all calls have ended.
func (d *daemon) stopGRPC() (clean bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.grpc.GracefulStop()
	}()
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	}
	// The graceful stop ends with the last call; one that hangs ends with the process.
	d.grpc.Stop()
	return false
}
