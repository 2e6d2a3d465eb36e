package backend

import (
	"context"
	"strings"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// defaultQRPeriod is how long a form of the code is shown, in milliseconds.
const defaultQRPeriod = 2000

// ui returns the defaults where config/ui was never written: no page, so no links
// and no passkeys.
func (b *backend) ui(ctx context.Context) (*uiRecord, error) {
	r := &uiRecord{}
	ok, err := b.store.get(ctx, keyUI, r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return &uiRecord{Version: recordVersion, QRPeriod: defaultQRPeriod}, nil
	}
	return r, nil
}

// page is the address of one of the mount's pages, without what stands behind "#".
// mountPoint is that of the request, such as "mpc/". Where there is no page it is
// "mpc:", which only programs take.
func (u *uiRecord) page(mountPoint, file string) string {
	if u.PublicURL == "" {
		return "mpc:"
	}
	return u.PublicURL + "/v1/" + strings.Trim(mountPoint, "/") + "/ui/" + file
}

// approver returns nil for a name that is not taken.
func (s *store) approver(ctx context.Context, name string) (*approverRecord, error) {
	r := &approverRecord{}
	ok, err := s.get(ctx, prefixApprovers+name, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// approverNames lists the approvers in order.
func (s *store) approverNames(ctx context.Context) ([]string, error) {
	return s.sorted(ctx, prefixApprovers)
}

func (s *store) putApprover(ctx context.Context, name string, r *approverRecord) error {
	r.Version = recordVersion
	return s.put(ctx, prefixApprovers+name, r)
}

// enrolment returns nil where there is none of that ID.
func (s *store) enrolment(ctx context.Context, id approval.ID) (*enrolmentRecord, error) {
	r := &enrolmentRecord{}
	ok, err := s.get(ctx, prefixEnrolments+id.String(), r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

func (s *store) putEnrolment(ctx context.Context, r *enrolmentRecord) error {
	r.Version = recordVersion
	return s.put(ctx, prefixEnrolments+r.ID, r)
}
