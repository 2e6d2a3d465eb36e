package pool

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// next chooses a task. Checks come before anything that makes more keys: two
// nodes that have finished with each other can sign while others are busy.
func (s *auxScheduler) next() (auxTask, bool) {
	nodes, _, _, err := s.pool.ready()
	if err != nil {
		return auxTask{}, false
	}
	var views []auxView
	for _, n := range nodes {
		if n.remote != nil && n.newestKey() == 0 {
			continue // it could not seal them to anything
		}
		if v := n.auxView(); v.process != 0 {
			views = append(views, v)
		}
	}
	for _, find := range []func([]auxView) (auxTask, bool){
		s.nextReload, s.nextAccept, s.nextPromotion, s.nextRetirement, s.nextFirst, s.nextRenewal,
	} {
		if t, ok := find(views); ok {
			return t, true
		}
	}
	return auxTask{}, false
}

func (s *auxScheduler) nextReload(views []auxView) (auxTask, bool) {
	for _, v := range views {
		t := auxTask{kind: auxReload, n: v.n, process: v.process}
		if s.pool.aux.outdated(v.id, v.keys) && s.free(t) {
			return t, true
		}
	}
	return auxTask{}, false
}

// acceptTask is the task by which v accepts keys of w.
func acceptTask(v, w auxView, o offer) auxTask {
	return auxTask{kind: auxAccept, n: v.n, peer: w.n, process: v.process, peerProcess: w.process, generation: o.generation}
}

// nextAccept looks for keys in use first, then for next ones.
func (s *auxScheduler) nextAccept(views []auxView) (auxTask, bool) {
	for k := range 2 {
		for _, v := range views {
			for _, w := range views {
				offers := w.offers()
				if v.n == w.n || v.keys == nil || k >= len(offers) {
					continue
				}
				o := offers[k]
				if t := acceptTask(v, w, o); !v.works(w.id, o.acceptedKeys) && !v.past(w.id, o.generation) && s.free(t) {
					return t, true
				}
			}
		}
	}
	return auxTask{}, false
}

// accepters counts the peers that work with keys of w, and those that have
// failed to accept them so often that nobody waits for them or have accepted
// newer ones, which a crash has taken from w. More peers may be in between.
func (s *auxScheduler) accepters(views []auxView, w auxView, o offer) (accepted, failed, between int) {
	for _, v := range views {
		switch {
		case v.n == w.n || v.keys == nil:
		case v.works(w.id, o.acceptedKeys):
			accepted++
		case v.past(w.id, o.generation), s.tries[acceptTask(v, w, o)].fails >= auxPatience:
			failed++
		default:
			between++
		}
	}
	return accepted, failed, between
}

// nextPromotion ends a renewal: with the new keys where peers have accepted
// them, else without. Until then all sessions use the old ones.
func (s *auxScheduler) nextPromotion(views []auxView) (auxTask, bool) {
	for _, v := range views {
		if v.next == nil {
			continue
		}
		offers := v.offers()
		accepted, failed, between := s.accepters(views, v, offers[len(offers)-1])
		if total := accepted + failed + between; total > 0 {
			v.n.withAux(v.process, func(a *nodeAux) {
				if a.state == auxRenewing && a.next == v.next {
					a.progress = 50 + 50*(accepted+failed)/total
				}
			})
		}
		t := auxTask{kind: auxPromote, n: v.n, process: v.process, generation: v.next.Generation}
		if failed > 0 && failed >= accepted {
			t.kind = auxAbandon
		}
		if between == 0 && accepted+failed > 0 && s.free(t) {
			return t, true
		}
	}
	return auxTask{}, false
}

// nextRetirement tells nodes which keys are not in use any more.
func (s *auxScheduler) nextRetirement(views []auxView) (auxTask, bool) {
	if time.Since(s.promoted) < s.pool.aux.grace {
		return auxTask{}, false
	}
	inUse := inUse(views)
	for _, v := range views {
		t := auxTask{kind: auxRetire, n: v.n, process: v.process}
		if inUse != "" && v.retired != inUse && s.free(t) {
			return t, true
		}
	}
	return auxTask{}, false
}

// inUse lists the generations in use that others were before: "local-1#2".
func inUse(views []auxView) string {
	var names []string
	for _, v := range views {
		if v.keys != nil && v.keys.Generation > 1 {
			names = append(names, receiptKey(v.id, v.keys.Generation))
		}
	}
	return strings.Join(names, " ")
}

// stranded reports whether a peer has accepted newer keys of w than w has, more
// of them than it keeps: the two cannot sign together until w makes others.
func stranded(views []auxView, w auxView) bool {
	return w.keys != nil && slices.ContainsFunc(views, func(v auxView) bool {
		k := acceptedKeys{w.keys.Generation, w.hash}
		return v.n != w.n && v.past(w.id, k.generation) && !v.works(w.id, k)
	})
}

func (s *auxScheduler) nextFirst(views []auxView) (auxTask, bool) {
	for _, v := range views {
		if t := (auxTask{kind: auxFirst, n: v.n, process: v.process}); v.keys == nil && s.free(t) {
			return t, true
		}
	}
	return auxTask{}, false
}

// nextRenewal begins the renewal of one node's keys, when no other runs and all
// nodes have checked the keys of the last one.
func (s *auxScheduler) nextRenewal(views []auxView) (auxTask, bool) {
	for _, t := range s.running {
		if t.kind == auxRenew {
			return auxTask{}, false
		}
	}
	for _, v := range views {
		if v.next != nil {
			return auxTask{}, false
		}
		for _, o := range v.offers() {
			if _, _, between := s.accepters(views, v, o); between > 0 {
				return auxTask{}, false
			}
		}
	}
	settings, _ := s.pool.currentSettings()
	type due struct {
		auxTask
		at    time.Time
		asked bool
	}
	var all []due
	for _, v := range views {
		t := auxTask{kind: auxRenew, n: v.n, process: v.process}
		at, asked := s.pool.aux.due(v.id, v.keys, settings.AuxPeriod)
		if stranded(views, v) {
			at, asked = s.pool.aux.began, true
		}
		if !at.IsZero() && !at.After(s.pool.aux.now()) && len(views) > 1 && s.free(t) {
			all = append(all, due{t, at, asked})
		}
	}
	if len(all) == 0 {
		return auxTask{}, false
	}
	return slices.MinFunc(all, func(a, b due) int {
		if a.asked != b.asked {
			if a.asked {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.at.UnixNano(), b.at.UnixNano())
	}).auxTask, true
}
