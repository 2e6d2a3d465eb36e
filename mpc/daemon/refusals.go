package daemon

import (
	"context"
	"path"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// A node on a host of its own says in that host's log what it refused and why: the
// coordinator's log may be in the hands of whom it refused. Texts of failures hold
// no secrets; they go to the coordinator as well.

// logFailures logs failures in replies. running counts the calls that compute.
func logFailures(logger hclog.Logger, running *atomic.Int64) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		running.Add(1)
		defer running.Add(-1)
		reply, err := handler(ctx, request)
		if r, ok := reply.(interface{ GetFailure() *nodepb.Failure }); ok && err == nil {
			logFailure(logger, path.Base(info.FullMethod), r.GetFailure())
		}
		if err != nil {
			logger.Info("a call failed", "call", path.Base(info.FullMethod), "error", err)
		}
		return reply, err
	}
}

func logFailure(logger hclog.Logger, call string, f *nodepb.Failure) {
	if f == nil {
		return
	}
	args := []any{"call", call, "reason", f.GetReason().String(), "error", f.GetText()}
	if len(f.GetCulprits()) > 0 {
		args = append(args, "culprits", f.GetCulprits())
	}
	switch f.GetReason() {
	case nodepb.Failure_REFUSED, nodepb.Failure_UNPINNED, nodepb.Failure_BELOW_FLOOR, nodepb.Failure_SWITCHED_OFF, nodepb.Failure_PROTOCOL,
		nodepb.Failure_SHARE_UNUSABLE, nodepb.Failure_WRAPPING_KEY:
		logger.Warn("refused", args...)
	default:
		logger.Info("not done", args...)
	}
}

// loggedSession logs how a session failed.
type loggedSession struct {
	nodepb.Node_SessionServer
	logger hclog.Logger
}

func (s *loggedSession) Send(out *nodepb.SessionOut) error {
	logFailure(s.logger, "Session", out.GetFailure())
	return s.Node_SessionServer.Send(out)
}
