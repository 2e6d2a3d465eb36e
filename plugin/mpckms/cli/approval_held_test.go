package cli

import (
	"strings"
	"testing"
)

// TestHeldRequest: a request that is approved and held is not waited for without end,
// and goes on with --request.
func TestHeldRequest(t *testing.T) {
	d := newApprovalDesk(t)
	id := d.request.String()
	answer := func(state, more string) string {
		return `{"request":"` + id + `","account":"gold","action":"sign","state":"` + state + `","requester":"entity:e1","expires_time":"2026-01-02T03:14:05Z","approvals":2,"quorum":2` + more + `}`
	}
	held := answer("approved", `,"reason":"account \"gold\" has been frozen since 2026-01-02T03:04:05Z (lost laptop) and signs nothing"`)
	d.on("PUT mpc/sign/gold", data(answer("pending", "")))
	d.on("PUT mpc/requests/"+id+"/wait", data(held))
	for _, args := range [][]string{{"request", "wait", id}, {"sign", "gold", "--input", "hello", "--wait"}} {
		res := run(t, args...)
		res.want(t, 1, "approved and held", "lost laptop", "--request "+id, "nothing was signed")
		if strings.Contains(res.stdout, "Signature ") || !strings.Contains(res.stdout, "approved") {
			t.Errorf("%v:\n%s", args, res.stdout)
		}
	}
	// Asked again while it is frozen, and after that.
	again := []string{"sign", "gold", "--input", "hello", "--request", id}
	d.on("PUT mpc/sign/gold", fails(409, `account "gold" has been frozen since 2026-01-02T03:04:05Z (lost laptop) and signs nothing`))
	run(t, again...).want(t, 1, "has been frozen")
	d.on("PUT mpc/sign/gold", data(answer("approved", "")))
	run(t, again...).want(t, 0, "approved and goes on")
	d.on("PUT mpc/requests/"+id+"/wait", data(answer("signed", `,"result":`+signData)))
	res := run(t, append(again, "--wait")...)
	res.want(t, 0)
	if !strings.Contains(res.stdout, "MEQ=") {
		t.Error(res.stdout)
	}
	if calls := d.called("PUT mpc/requests/" + id + "/code"); len(calls) != 0 {
		t.Errorf("%d requests for a code that there is not", len(calls))
	}
	calls := d.called("PUT mpc/sign/gold")
	if last := calls[len(calls)-1].body; last["request"] != id || last["request_id"] != nil {
		t.Errorf("%v", last)
	}
	// Frozen again before it could be done.
	d.on("PUT mpc/sign/gold", data(held))
	run(t, again...).want(t, 1, "approved and held")
	run(t, "sign", "gold", "--input", "hello", "--request", "nonsense").want(t, 2, "32 lower-case hex digits")
	run(t, append(again, "--request-id", "x")...).want(t, 2, "request-id")
}
