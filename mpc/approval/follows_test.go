package approval_test

import (
	"testing"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// TestPolicyFollows: policies of an account are asked for one after another. Going
// back to what an earlier one said makes another policy, so that approvals of the
// change that was undone fit nothing any more.
func TestPolicyFollows(t *testing.T) {
	ann := approvaltest.New(t, "ann")
	at := func(since uint64) *approval.Policy {
		p := approvaltest.Policy(t, 1, ann)
		p.Since = since
		return p
	}
	for name, c := range map[string]struct {
		old   *approval.Policy
		since uint64
		epoch uint64
		fails bool
	}{
		"at creation":                  {nil, 0, 0, false},
		"at creation, from the future": {nil, 1, 0, true},
		"the first":                    {nil, 7, 7, false},
		"the first, refreshed since":   {nil, 7, 9, false},
		"the next":                     {at(7), 8, 8, false},
		"the next, refreshed since":    {at(7), 8, 12, false},
		"of a made one":                {at(0), 1, 1, false},
		"asked for with the other":     {at(7), 7, 9, true},
		"asked for before the other":   {at(7), 6, 9, true},
		"from the future":              {at(7), 10, 9, true},
	} {
		if err := at(c.since).Follows(c.old, c.epoch); (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
	if at(7).Hash() == at(8).Hash() {
		t.Error("two policies of one account are alike")
	}
	back, err := approval.ParsePolicy(at(1 << 40).Marshal())
	if err != nil || back.Since != 1<<40 {
		t.Errorf("%+v, %v", back, err)
	}
}
