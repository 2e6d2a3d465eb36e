package backend

import (
	"context"
)

// endEnrolmentsOf deletes the enrolments of an approver, who is named by its ID in
// hex. The caller has the turn.
func (b *backend) endEnrolmentsOf(ctx context.Context, approverID string) error {
	return nil
}

// expireEnrolments deletes enrolments whose time is over, in the background.
func (b *backend) expireEnrolments() {}
