package daemon

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// with makes a call on the present attachment's node.
func with[Q, R any](ctx context.Context, s *server, r *Q, call func(*node.Node, context.Context, *Q) (*R, error)) (*R, error) {
	n, err := s.node(ctx)
	if err != nil {
		return nil, err
	}
	return call(n, ctx, r)
}

// Probe would log in with a PIN that the coordinator chose.
func (s *server) Probe(context.Context, *nodepb.ProbeRequest) (*nodepb.ProbeReply, error) {
	return nil, status.Error(codes.PermissionDenied, "a node on another host has a token and a PIN of its own: it tries none that a coordinator sends")
}

// Session implements nodepb.NodeServer.
func (s *server) Session(stream nodepb.Node_SessionServer) error {
	n, err := s.node(stream.Context())
	if err != nil {
		return err
	}
	return n.Session(&loggedSession{Node_SessionServer: stream, logger: s.logger})
}

func (s *server) SetRoster(ctx context.Context, r *nodepb.SetRosterRequest) (*nodepb.SetRosterReply, error) {
	return with(ctx, s, r, (*node.Node).SetRoster)
}

func (s *server) Status(ctx context.Context, r *nodepb.StatusRequest) (*nodepb.StatusReply, error) {
	return with(ctx, s, r, (*node.Node).Status)
}

func (s *server) OpenShare(ctx context.Context, r *nodepb.OpenShareRequest) (*nodepb.OpenShareReply, error) {
	return with(ctx, s, r, (*node.Node).OpenShare)
}

func (s *server) MakeAuxiliary(ctx context.Context, r *nodepb.MakeAuxiliaryRequest) (*nodepb.MakeAuxiliaryReply, error) {
	return with(ctx, s, r, (*node.Node).MakeAuxiliary)
}

func (s *server) ProveFactors(ctx context.Context, r *nodepb.ProveFactorsRequest) (*nodepb.ProveFactorsReply, error) {
	return with(ctx, s, r, (*node.Node).ProveFactors)
}

func (s *server) AcceptPeer(ctx context.Context, r *nodepb.AcceptPeerRequest) (*nodepb.AcceptPeerReply, error) {
	return with(ctx, s, r, (*node.Node).AcceptPeer)
}

func (s *server) RetireAuxiliary(ctx context.Context, r *nodepb.RetireAuxiliaryRequest) (*nodepb.RetireAuxiliaryReply, error) {
	return with(ctx, s, r, (*node.Node).RetireAuxiliary)
}

func (s *server) DropPresignatures(ctx context.Context, r *nodepb.DropPresignaturesRequest) (*nodepb.DropPresignaturesReply, error) {
	return with(ctx, s, r, (*node.Node).DropPresignatures)
}

func (s *server) SetWrappingKeys(ctx context.Context, r *nodepb.SetWrappingKeysRequest) (*nodepb.SetWrappingKeysReply, error) {
	return with(ctx, s, r, (*node.Node).SetWrappingKeys)
}

func (s *server) MakeWrappingKey(ctx context.Context, r *nodepb.MakeWrappingKeyRequest) (*nodepb.MakeWrappingKeyReply, error) {
	return with(ctx, s, r, (*node.Node).MakeWrappingKey)
}

func (s *server) DestroyWrappingKey(ctx context.Context, r *nodepb.DestroyWrappingKeyRequest) (*nodepb.DestroyWrappingKeyReply, error) {
	return with(ctx, s, r, (*node.Node).DestroyWrappingKey)
}

func (s *server) FindWrappingKeys(ctx context.Context, r *nodepb.FindWrappingKeysRequest) (*nodepb.FindWrappingKeysReply, error) {
	return with(ctx, s, r, (*node.Node).FindWrappingKeys)
}

func (s *server) RewrapShare(ctx context.Context, r *nodepb.RewrapShareRequest) (*nodepb.RewrapShareReply, error) {
	return with(ctx, s, r, (*node.Node).RewrapShare)
}

func (s *server) RewrapOwn(ctx context.Context, r *nodepb.RewrapOwnRequest) (*nodepb.RewrapOwnReply, error) {
	return with(ctx, s, r, (*node.Node).RewrapOwn)
}

func (s *server) ImportShare(ctx context.Context, r *nodepb.ImportShareRequest) (*nodepb.ImportShareReply, error) {
	return with(ctx, s, r, (*node.Node).ImportShare)
}

func (s *server) Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	return with(ctx, s, r, (*node.Node).Identity)
}

func (s *server) PrepareRelease(ctx context.Context, r *nodepb.PrepareReleaseRequest) (*nodepb.PrepareReleaseReply, error) {
	return with(ctx, s, r, (*node.Node).PrepareRelease)
}

var _ nodepb.NodeServer = (*server)(nil)
