package main

import (
	"context"
	"os"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// serveNode runs one local MPC node until its parent is gone.
func serveNode() int {
	logger := newLogger("")
	if !pkcs11.Available {
		logger.Error("not started: a node needs a token, and " + noLocalNodes())
		return 2
	}
	if err := nodelink.ExitWithParent(func() { os.Exit(0) }); err != nil {
		logger.Error("not started", "error", err)
		return 2
	}
	harden(logger)
	lockMemory(logger)
	n := node.New(node.Config{
		Version:   "v" + version,
		Logger:    logger,
		Modules:   os.Getenv(modules.Variable),
		Authority: os.Getenv(node.AuthorityVariable),
		OpenToken: openToken,
	})
	defer n.Close()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: nodelink.Handshake(),
		Plugins:         plugin.PluginSet{nodelink.Name: &nodelink.Plugin{Node: n}},
		Logger:          logger,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return plugin.DefaultGRPCServer(append(opts, grpc.ChainUnaryInterceptor(node.RecoverUnary(logger)),
				grpc.MaxRecvMsgSize(nodelink.MaxMessage), grpc.MaxSendMsgSize(nodelink.MaxMessage)))
		},
	})
	return 0
}

// openToken opens a PKCS#11 token; both kinds of nodes use it.
func openToken(ctx context.Context, c pkcs11.Config) (node.Token, error) {
	t, err := pkcs11.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return t, nil
}
