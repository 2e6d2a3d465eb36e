package node

import (
	"context"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

type auxState struct{}

func (auxState) status() (string, uint64, uint32) { return "none", 0, 0 }

type auxInputs struct{}

func (n *Node) auxInputs(*nodepb.Start) (auxInputs, error) { return auxInputs{}, errAuxPending }

func (auxInputs) newSigner(*signTask, *secret.Bytes, mpc.SessionID) (signer, error) {
	return nil, errAuxPending
}

func (n *Node) loadAuxiliary(context.Context, []byte, []byte) error { return errAuxPending }
