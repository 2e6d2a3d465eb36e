package backend

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Enrolment of an approver's device. Whoever may (approvers/NAME/enrol) opens it and
// gives its link to the device's owner. The device makes its keys, offers the public
// halves (approve/enrol, approve/enrol/finish), and shows a short code that it has
// computed of them. Whoever confirms the enrolment (approvers/NAME/confirm) types that
// code: it differs where other keys have arrived than the device has sent. Then only
// the keys are the approver's.
//
//	open ──finish──▶ offered ──right code──▶ confirmed
//	  │                 ├──third wrong code─▶ ended
//	  │                 ├──another device───▶ ended
//	  └──its time───────┴──approver deleted─▶ ended

const (
	defaultEnrolmentTTL = 10 * time.Minute
	minEnrolmentTTL     = time.Minute
	maxEnrolmentTTL     = 15 * time.Minute
	// Enrolments that are open at once: of one approver, and of all.
	maxOpenOfApprover = 4
	maxOpenEnrolments = 256
	// maxEnrolmentTries is how many wrong codes end an enrolment.
	maxEnrolmentTries = 3
	// enrolmentSecretSize is in bytes, and that of a challenge as well.
	enrolmentSecretSize = 32
)

// States of an enrolment, as both sides are told.
const (
	enrolStateOpen      = "open"
	enrolStateOffered   = "offered"
	enrolStateConfirmed = "confirmed"
	enrolStateEnded     = "ended"
)

func (r *enrolmentRecord) state(now time.Time) string {
	switch {
	case r.End == enrolmentConfirmed:
		return enrolStateConfirmed
	case r.End != "" || !now.Before(r.Expires):
		return enrolStateEnded
	case len(r.Keys) > 0:
		return enrolStateOffered
	}
	return enrolStateOpen
}

// reason says in words why an enrolment ended; empty where it has not.
func (r *enrolmentRecord) reason(now time.Time) string {
	switch {
	case r.End == enrolmentConfirmed:
		return ""
	case r.End == enrolmentGuessed:
		return "three wrong codes were given"
	case r.End == enrolmentTwice:
		return "a second device has used its link: somebody else has it"
	case !now.Before(r.Expires):
		return "its time is over"
	}
	return ""
}

// finishWith ends an enrolment; what was offered is dropped with it.
func (r *enrolmentRecord) finishWith(end enrolmentEnd) {
	r.End, r.Keys, r.Code, r.Challenge = end, nil, "", ""
}

// approvalKeys are the keys that were offered, as statements name them.
func approvalKeys(records []approverKeyRecord) []approval.Key {
	out := make([]approval.Key, len(records))
	for i := range records {
		out[i] = records[i].key()
	}
	return out
}

// newEnrolment stores one for an approver and returns the link's secret, which is
// stored nowhere. The caller has the turn.
func (b *backend) newEnrolment(ctx context.Context, name string, a *approverRecord, label string, ttl time.Duration) (*enrolmentRecord, string, error) {
	now := b.cfg.now()
	all, err := b.enrolments(ctx)
	if err != nil {
		return nil, "", err
	}
	open, own := 0, 0
	for _, r := range all {
		if !now.Before(r.Expires) {
			if err := b.store.delete(ctx, prefixEnrolments+r.ID); err != nil {
				return nil, "", err
			}
			continue
		}
		open++ // also one that has ended: it is stored until its time is over
		if s := r.state(now); r.ApproverID == a.ID && (s == enrolStateOpen || s == enrolStateOffered) {
			own++
		}
	}
	if own >= maxOpenOfApprover {
		return nil, "", conflict("%d enrolments of this approver are open: confirm them, or wait until their time is over (15 minutes at most). Nothing was changed", own)
	}
	if open >= maxOpenEnrolments {
		return nil, "", conflict("%d enrolments are open or have just ended: wait some minutes. Nothing was changed", open)
	}
	secret := randomBytes(enrolmentSecretSize)
	sum := sha256.Sum256(secret)
	r := &enrolmentRecord{
		ID: approval.ID(newID()).String(), Approver: name, ApproverID: a.ID, SecretHash: hex.EncodeToString(sum[:]),
		Created: now.UTC(), Expires: now.Add(ttl).UTC().Truncate(time.Second), Label: label,
	}
	if err := b.store.putEnrolment(ctx, r); err != nil {
		return nil, "", err
	}
	return r, base64.RawURLEncoding.EncodeToString(secret), nil
}

func randomBytes(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out) // never fails: it ends the program instead
	return out
}

// enrolments reads all that are stored, oldest first.
func (b *backend) enrolments(ctx context.Context) ([]*enrolmentRecord, error) {
	ids, err := b.store.list(ctx, prefixEnrolments)
	if err != nil {
		return nil, err
	}
	var out []*enrolmentRecord
	for _, text := range ids {
		id, err := approval.ParseID(text)
		if err != nil {
			return nil, &damagedError{prefixEnrolments + clip(text), err}
		}
		r, err := b.store.enrolment(ctx, id)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(x, y *enrolmentRecord) int { return x.Created.Compare(y.Created) })
	return out, nil
}

// errNoEnrolment has one text for an enrolment that there is not and a secret that is
// not its own.
func errNoEnrolment() error {
	return forbidden("there is no such enrolment, or its time is over, or the secret is not right: nothing was done. Ask whoever enrols you for a new link")
}

// linkedEnrolment reads an enrolment for a device that shows the link's secret.
// Wrong ones are counted per enrolment ID, whether or not there is one.
func (b *backend) linkedEnrolment(ctx context.Context, enrolment, secret string) (*enrolmentRecord, error) {
	id, err := approval.ParseID(enrolment)
	if err != nil {
		return nil, errNoEnrolment() // no record can have it: there is nothing to guess
	}
	key := id.String()
	if b.people.links.check(key, false) != nil {
		return nil, tooManyGuesses("secrets of this enrolment")
	}
	r, err := b.store.enrolment(ctx, id)
	if err != nil {
		return nil, err
	}
	var stored [sha256.Size]byte // of no secret, where there is no record
	if r != nil {
		if err := decodeHex(r.SecretHash, stored[:], "hash of the enrolment's secret"); err != nil {
			return nil, err
		}
	}
	raw, wrong := anyBase64(secret, enrolmentSecretSize)
	sum := sha256.Sum256(raw)
	if subtle.ConstantTimeCompare(sum[:], stored[:]) != 1 || wrong != nil || len(raw) != enrolmentSecretSize || r == nil {
		b.people.links.failed(key, false)
		return nil, errNoEnrolment()
	}
	b.people.links.succeeded(key)
	return r, nil
}

// againstOthers is a 409 where one of the keys is somebody else's already, or the
// approver's own under another name. Nobody counts for two, and no key for two kinds.
// new are those that the approver does not have yet. The caller has the turn.
func (b *backend) againstOthers(ctx context.Context, approverID string, keys []approverKeyRecord) (fresh []approverKeyRecord, err error) {
	names, err := b.store.approverNames(ctx)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, name := range names {
		r, err := b.store.approver(ctx, name)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		for i := range r.Keys {
			for j := range keys {
				old, offered := r.Keys[i].key(), keys[j].key()
				switch {
				case r.ID == approverID && old.ID() == offered.ID():
					have[offered.ID().String()] = true
				case slices.Equal(old.Public, offered.Public) || len(offered.Credential) > 0 && slices.Equal(old.Credential, offered.Credential):
					return nil, conflict("the %s %q is enrolled already, as %s %q of an approver: a key belongs to one approver, as one factor. Nothing was changed; make a new key", offered.Kind, clip(offered.Name), old.Kind, clip(old.Name))
				}
			}
		}
	}
	for _, k := range keys {
		key := k.key()
		if !have[key.ID().String()] {
			fresh = append(fresh, k)
		}
	}
	return fresh, nil
}

// endEnrolmentsOf deletes the enrolments of an approver, who is named by its ID in
// hex. The caller has the turn.
func (b *backend) endEnrolmentsOf(ctx context.Context, approverID string) error {
	all, err := b.enrolments(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.ApproverID == approverID {
			if err := b.store.delete(ctx, prefixEnrolments+r.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// enrolmentExpiryTimeout bounds one pass over the enrolments.
const enrolmentExpiryTimeout = 30 * time.Second

// expireEnrolments deletes enrolments whose time is over, in the background. Where
// somebody else has the turn, the next minute does it.
func (b *backend) expireEnrolments() {
	if !b.active() {
		return
	}
	select {
	case b.people.turn <- struct{}{}:
	default:
		return
	}
	started := b.spawn(func(ctx context.Context) {
		defer func() { <-b.people.turn }()
		ctx, cancel := context.WithTimeout(ctx, enrolmentExpiryTimeout)
		defer cancel()
		if err := b.deleteExpiredEnrolments(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("not all enrolments whose time is over were deleted; they are of no use, and it is tried again", "error", err)
		}
	})
	if !started {
		<-b.people.turn
	}
}

// deleteExpiredEnrolments goes on where one cannot be read, and returns the first
// error. The caller has the turn.
func (b *backend) deleteExpiredEnrolments(ctx context.Context) error {
	ids, err := b.store.list(ctx, prefixEnrolments)
	if err != nil {
		return err
	}
	var first error
	for _, text := range ids {
		id, err := approval.ParseID(text)
		if err == nil {
			var r *enrolmentRecord
			if r, err = b.store.enrolment(ctx, id); err == nil && r != nil && !b.cfg.now().Before(r.Expires) {
				err = b.store.delete(ctx, prefixEnrolments+r.ID)
			}
		}
		if err != nil && first == nil {
			first = err
		}
	}
	return first
}
