package node

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RecoverUnary is a gRPC interceptor that ends a call that panicked with an
// error and keeps the node alive. The panic's value is dropped: it may hold
// secrets. Sessions have a guard of their own.
func RecoverUnary(logger hclog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if r := recover(); r != nil {
				logger.Error("a call panicked and was ended", "method", info.FullMethod)
				reply, err = nil, status.Error(codes.Internal, "the call panicked on the node")
			}
		}()
		return handler(ctx, request)
	}
}
