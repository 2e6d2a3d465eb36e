package pool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// This file has what the pool tells running nodes of each other, and what it
// watches of each.

// introduce tells every running node the identities of all others, and returns
// the errors of those that did not take them, by node ID.
func (p *Pool) introduce(ctx context.Context) map[string]error {
	var members []*nodepb.Member
	var recipients []byte
	if settings, ok := p.currentSettings(); ok {
		recipients = settings.Recipients
	}
	nodes := p.all()
	for _, n := range nodes {
		if c, ok := n.candidate(); ok {
			members = append(members, &nodepb.Member{NodeId: c.id, Identity: c.identity[:]})
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := map[string]error{}
	for _, n := range nodes {
		client := n.client()
		if client == nil {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			_, err := client.SetRoster(ctx, &nodepb.SetRosterRequest{Members: members, Recipients: recipients})
			if err != nil && n.disagrees(err) {
				return
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[n.id] = fmt.Errorf("introducing nodes to %s: %w", n.id, err)
			}
		}()
	}
	wg.Wait()
	return failed
}

// disagrees deals with a node that has pinned another identity for one of the
// others. One on another host goes on: it works with those that it knows, and says
// in sessions what its operator can do. A local one has the name from a node that
// was taken away since and enrolled anew; its next process pins what there is now.
func (n *poolNode) disagrees(err error) bool {
	if status.Code(err) != codes.FailedPrecondition {
		return false
	}
	n.mu.Lock()
	proc := n.proc
	n.lastError = clip(status.Convert(err).Message())
	n.mu.Unlock()
	n.pool.cfg.Logger.Warn("a node does not take another's identity", "node", n.id, "error", err)
	if n.remote == nil && proc != nil {
		proc.Stop()
	}
	return true
}

// pollStatus keeps the figures people see up to date, and ends the process when
// it does not answer, or when its token stays away: many PKCS#11 modules
// recover in a new process only. The supervisor then starts another.
func (n *poolNode) pollStatus(ctx context.Context, proc *process) {
	t := time.NewTicker(statusEvery)
	defer t.Stop()
	away := 0
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		call, cancel := context.WithTimeout(ctx, statusTimeout)
		asked := time.Now()
		s, err := proc.client.Status(call, &nodepb.StatusRequest{})
		answered := time.Now()
		cancel()
		if ctx.Err() != nil {
			return
		}
		n.mu.Lock()
		before := n.usableLocked()
		if err != nil {
			n.mute++
			n.lastError = "the node does not answer"
		} else {
			n.mute, away = 0, away+1
			n.noteAnswer(s, asked, answered)
			n.hsm, n.sessions, n.pinRefused = s.GetHsm(), int(s.GetSessions()), s.GetPinRefused()
			if n.hsm == hsmOK || n.pinRefused {
				away = 0 // a new login would only cost another try of the PIN
			}
			n.presignatures = int(s.GetPresignatures())
			n.aux.noteProgress(int(s.GetAuxProgress()))
		}
		refused, login, mute := n.pinRefused, n.login, n.mute
		turned := n.usableLocked() != before
		n.mu.Unlock()
		if turned {
			n.pool.notify()
		}
		if refused && n.remote == nil {
			n.pool.refuseLater(login)
		}
		if mute >= mutePolls || away >= awayPolls {
			n.pool.cfg.Logger.Warn("ending a node to start it again", "node", n.id, "unanswered", mute, "without_hsm", away)
			proc.Stop()
			return
		}
	}
}

// noteAnswer takes what a status call says of the way to the node and of its
// clock. The caller holds n.mu.
func (n *poolNode) noteAnswer(s *nodepb.StatusReply, asked, answered time.Time) {
	n.ending = n.remote != nil && s.GetDraining()
	took := answered.Sub(asked)
	if n.rtt == 0 {
		n.rtt = took
	} else {
		n.rtt += (took - n.rtt) / 4 // half of a change shows after three calls
	}
	if ms := s.GetTimeUnixMs(); ms != 0 {
		// The node looked at its clock somewhere in between.
		n.skew = time.UnixMilli(ms).Sub(asked.Add(took / 2))
	}
}

// noteEnding keeps new sessions away from a node that has said that it is about to
// end, until its next status call.
func (n *poolNode) noteEnding() {
	n.mu.Lock()
	n.ending = n.remote != nil
	n.mu.Unlock()
	n.pool.notify()
}

// detach marks the node as not usable: its process has ended.
func (n *poolNode) detach() {
	n.mu.Lock()
	n.proc, n.sessions, n.presignatures, n.hsm, n.ending = nil, 0, 0, "", false
	if n.state == NodeReady {
		n.state, n.since = NodeRestarting, time.Now()
	}
	n.mu.Unlock()
	n.pool.notify()
}

func (n *poolNode) setState(s NodeState, err error) {
	n.mu.Lock()
	if n.state != s {
		n.state, n.since = s, time.Now()
	}
	if err != nil {
		n.lastError = err.Error()
	}
	n.hsmTrouble = nil
	if isHSM(err) {
		n.hsm, n.hsmTrouble = err.Error(), err
	}
	n.mu.Unlock()
	n.pool.notify()
}

func (n *poolNode) isReady() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.usableLocked()
}

// usableLocked is isReady for callers that hold n.mu. A node on another host gets
// nothing new from the first status call on that it does not answer: a session with
// it would hang, while others may be asked.
func (n *poolNode) usableLocked() bool {
	return n.state == NodeReady && !n.draining && n.proc != nil && !n.proc.Exited() && (n.remote == nil || n.mute == 0 && !n.ending)
}
