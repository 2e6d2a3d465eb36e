package backend

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// The approver's side of a request. A device calls it without a Vault token and
// authenticates by what it sends: a form of the request's moving code and a signature
// of its key to see the request (approve_open.go), and then signatures over the
// statement to answer it (approve_answer.go). Where nothing of that is right, all
// causes are answered alike.

// requestBook is what is needed of requests. An unknown one is a 404.
type requestBook interface {
	// read writes nothing: a request whose time is over may still say pending.
	read(ctx context.Context, id string) (*requestRecord, error)
	update(ctx context.Context, id string, change func(*requestRecord) error) (*requestRecord, error)
	subject(ctx context.Context, r *requestRecord) (approval.Subject, *approval.Policy, error)
	give(ctx context.Context, id string, g givenRecord) (*requestRecord, error)
	// endIfOver ends the request where subject's error says that what was asked for
	// cannot be done any more, and returns what to answer.
	endIfOver(ctx context.Context, id string, err error) error
}

// approverBook is what is needed of the directory of approvers.
type approverBook interface {
	approverByID(ctx context.Context, id string) (name string, r *approverRecord, err error)
	checkTOTP(ctx context.Context, approverID, code string) error
}

// approveDesk is what the approver's side keeps in memory. It may be used
// concurrently.
type approveDesk struct {
	now       func() time.Time
	requests  requestBook
	approvers approverBook
	// started is when this process began to take forms. Forms that were shown before
	// are refused: whether a device had used one is forgotten.
	started time.Time
	tickets *approveTickets
	used    *usedForms
	counts  *approveCounts // of requests that there are
	strange *approveCounts // of those that there are not
	lines   *lineBudget
	refused *prometheus.CounterVec
	decoy   *approveDecoy
}

// causes of refusals, as metric and log name them.
const (
	causeUnknown   = "unknown request"
	causeKey       = "key is not in the policy"
	causeSignature = "bad signature"
	causeClock     = "clock of the device"
	causeForm      = "wrong or stale code"
	causeReplay    = "code used before"
	causeProof     = "bad proof"
	causeFactor    = "wrong factor"
	causeCode      = "wrong one-time code"
	causeLimited   = "too many attempts"
)

func approveCauses() []string {
	return []string{causeUnknown, causeKey, causeSignature, causeClock, causeForm, causeReplay, causeProof, causeFactor, causeCode, causeLimited}
}

func newApproveRefusals() *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mpc_approval_refusals_total",
		Help: "What approvers' devices, or others in their place, sent and was refused, by cause.",
	}, []string{"cause"})
	for _, cause := range approveCauses() {
		v.WithLabelValues(cause)
	}
	return v
}

func newApproveDesk(now func() time.Time, requests requestBook, approvers approverBook, refused *prometheus.CounterVec) (*approveDesk, error) {
	decoy, err := newApproveDecoy(now())
	if err != nil {
		return nil, err
	}
	return &approveDesk{
		now: now, requests: requests, approvers: approvers, started: now(),
		tickets: newApproveTickets(now, maxApproveTickets), used: newUsedForms(now),
		counts: newApproveCounts(now, maxApproveCounts), strange: newApproveCounts(now, maxApproveCounts),
		lines: &lineBudget{now: now}, refused: refused, decoy: decoy,
	}, nil
}

// sweep drops what is over.
func (d *approveDesk) sweep() {
	d.tickets.sweep()
	d.counts.sweep()
	d.strange.sweep()
}

// countsOf keeps requests that exist apart from made-up ones, which could otherwise
// push their counts out of memory.
func (d *approveDesk) countsOf(known bool) *approveCounts {
	if known {
		return d.counts
	}
	return d.strange
}

// approveDecoy stands in for a request that does not exist, so that one is refused
// after the same work: a policy is read, a signature verified, two forms derived.
// Times still differ with the size of a policy and with storage; request IDs are
// 16 random bytes and not to be found by trying.
type approveDecoy struct {
	record *requestRecord
	key    approval.Key
}

func newApproveDecoy(now time.Time) (*approveDecoy, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	key := approval.Key{Kind: approval.Device, Name: "decoy", Public: public}
	a := approval.Approver{Name: "decoy", Requesters: []string{"none"}, Keys: []approval.Key{key}, Checked: []approval.Kind{approval.TOTP}}
	_, _ = rand.Read(a.ID[:]) // never fails: it ends the program instead
	p := approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: approval.MinExpiry, Approvers: []approval.Approver{a}}
	r := &requestRecord{Policy: p.Marshal(), Seed: make([]byte, approval.SeedSize), Period: 2000, Created: now}
	_, _ = rand.Read(r.Seed)
	return &approveDecoy{record: r, key: key}, nil
}
