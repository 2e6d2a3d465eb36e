package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// signDoc is the JSON document of `account sign`.
type signDoc struct {
	Name         string       `json:"name"`
	Signature    string       `json:"signature"` // base64; base64url without padding where Format is jws
	SignatureHex string       `json:"signature_hex"`
	Format       string       `json:"signature_format,omitempty"`
	R            string       `json:"r"`
	S            string       `json:"s"`
	V            *json.Number `json:"v"` // null where the scheme has no recovery ID
	Digest       string       `json:"digest"`
	PublicKey    string       `json:"public_key"`
	Path         string       `json:"derivation_path,omitempty"`
	TaprootTweak string       `json:"taproot_tweak,omitempty"`
	ShareEpoch   uint64       `json:"share_epoch"`
	Signers      []signer     `json:"signers"`
	SessionID    string       `json:"session_id"`
	Attempts     int          `json:"attempts"`
	Presigned    *bool        `json:"presigned,omitempty"` // ECDSA: a presignature was used
	RequestID    string       `json:"request_id,omitempty"`
	Replayed     bool         `json:"replayed,omitempty"` // the stored answer to an earlier request of this ID
}

type signer struct {
	Index int    `json:"index"`
	Node  string `json:"node"`
}

// signCommand is `account sign` by its short name: the same flags and the same help,
// with examples as they are typed.
func (a *app) signCommand() *cobra.Command {
	cmd := a.accountSignCommand()
	cmd.Example = strings.ReplaceAll(cmd.Example, "mpckms account sign ", "mpckms sign ")
	return cmd
}

func (a *app) accountSignCommand() *cobra.Command {
	var (
		in      inputFlags
		child   childFlags
		timeout time.Duration
		noWait  bool
		id      string
		before  string
		wait    waitFor
	)
	cmd := &cobra.Command{
		Use:   "sign NAME (--input TEXT | --input-file FILE | --digest HEX)",
		Short: "Sign a message or a digest",
		Long: `Sign a message, or a digest made elsewhere, with an account. Ethereum accounts
sign messages of EIP-191 and typed data of EIP-712 as well.

With --request-id the same command can be run again after an error without
signing twice: for 24 hours the same account, ID and input get the same answer.

ECDSA needs auxiliary keys that the nodes make after they start. While they are
not ready, sign shows the nodes' progress on standard error and waits up to
--timeout. An account with presignatures (--presign) signs messages at once; a
--digest and child keys take the longer way, which is needed for their safety.

An account with a policy signs once its approvers have approved: sign prints a request
and ends, or with --wait shows the request's code in the terminal and prints the signature.
With --request it goes on with a request that was approved before: one that was held
because the account was frozen, or one of an account with custody.

An account with custody signs with the help of who opens its custody key: the command
logs in, and needs no Vault token. If a refresh of its shares is due, that is done first.`,
		Example: `  mpckms account sign treasury --input "hello"
  mpckms account sign treasury --input-file - < message
  mpckms account sign hot --digest 0x9f86d0…0a08 -o json
  mpckms account sign hot --message-type eip712 --input-file typed-data.json --format ethereum
  mpckms account sign hot --input-file invoice --format jws --request-id invoice-4711
  mpckms account sign treasury --input-file tx --derivation-path m/0/7 --taproot-tweak bip86
  mpckms account sign gold --input "hello" --authenticator ada
  mpckms account sign vault --input-file tx --wait
  mpckms account sign vault --input-file tx --request 5f0e…9a --wait`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usagef(cmd, "--timeout must be longer than 0")
			}
			body, err := in.body(cmd, a.stdin)
			if err != nil {
				return err
			}
			child.add(body)
			if cmd.Flags().Changed("request-id") { // an empty one is refused, not dropped
				body["request_id"] = id
			}
			if cmd.Flags().Changed("request") {
				if _, err := approval.ParseID(before); err != nil {
					return usagef(cmd, "--request takes the ID of a request: 32 lower-case hex digits")
				}
				body["request"] = before
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := signDoc{Name: args[0]}
			req := request{
				what:       fmt.Sprintf("sign with account %q", args[0]),
				capability: capUpdate, path: "sign/" + args[0], body: body, account: args[0],
			}
			if asked, err := a.signAccount(cmd, c, req, body, timeout, noWait, &wait, &doc); err != nil || asked {
				return err
			}
			if doc.Signers == nil {
				doc.Signers = []signer{}
			}
			return a.print(doc, doc.write)
		},
	}
	in.register(cmd)
	child.register(cmd)
	cmd.Flags().StringVar(&id, "request-id", "", "repeat the answer to this ID instead of signing again: 1 to 128 printable characters without spaces")
	cmd.Flags().StringVar(&before, "request", "", "go on with this request of yours for the same input, which was approved")
	cmd.MarkFlagsMutuallyExclusive("request", "request-id")
	waitFlags(cmd, &timeout, &noWait)
	wait.add(cmd, "it is signed")
	a.acceptFlags(cmd)
	return cmd
}

// signAnswer is a signature, or a request that has to be approved first.
type signAnswer struct {
	*signDoc
	pending *requestDoc
}

// UnmarshalJSON keeps a request from looking like a signature.
func (s *signAnswer) UnmarshalJSON(raw []byte) error {
	if s.pending = pendingAnswer(raw); s.pending != nil {
		return nil
	}
	return json.Unmarshal(raw, s.signDoc)
}

// signAccount signs with the Vault token, or with the custody key where the
// account has one. asked: approvals are needed, and everything was printed.
func (a *app) signAccount(cmd *cobra.Command, c *client, req request, body map[string]any, timeout time.Duration, noWait bool, w *waitFor, doc *signDoc) (asked bool, err error) {
	if a.asHolder(c) {
		return a.custodySign(cmd, req.account, body, timeout, noWait, w, doc)
	}
	answer := signAnswer{signDoc: doc}
	err = a.signWaiting(cmd.Context(), c, req, &answer, timeout, noWait)
	if needsCustody(err) {
		return a.custodySign(cmd, req.account, body, timeout, noWait, w, doc)
	}
	if err != nil || answer.pending == nil {
		return false, err
	}
	who := tokenRequester(c, req.what)
	if answer.pending.State == "signed" && answer.pending.hasResult() { // of an earlier run with the same request ID
		return false, answer.pending.signatureOf(doc)
	}
	if answer.pending.ended() {
		return true, errors.Join(a.printRequest(answer.pending), requestEnd(answer.pending))
	}
	if !w.wait {
		return true, a.pending(cmd, who, answer.pending, w)
	}
	end, err := a.untilApproved(cmd.Context(), who, answer.pending, w)
	if err != nil {
		return false, err
	}
	if end.State != "signed" || !end.hasResult() {
		return true, errors.Join(a.printRequest(end), requestEnd(end))
	}
	return false, end.signatureOf(doc)
}

// waitFlags say how long auxiliary keys are waited for.
func waitFlags(cmd *cobra.Command, timeout *time.Duration, noWait *bool) {
	cmd.Flags().DurationVar(timeout, "timeout", 2*time.Minute, "give up after this long")
	cmd.Flags().BoolVar(noWait, "no-wait", false, "do not try again while auxiliary keys are being made")
}

func (doc signDoc) write(t *text) {
	signers := make([]string, len(doc.Signers))
	for i, s := range doc.Signers {
		signers[i] = fmt.Sprintf("%s (share %d)", s.Node, s.Index)
	}
	var v string
	if doc.V != nil {
		v = doc.V.String()
	}
	attempts := ""
	if doc.Attempts > 1 {
		attempts = strconv.Itoa(doc.Attempts)
	}
	presigned := ""
	if doc.Presigned != nil {
		presigned = yesNo(*doc.Presigned)
	}
	replayed := ""
	if doc.Replayed {
		replayed = "yes: the answer to an earlier request with this ID"
	}
	publicKey, pem := doc.PublicKey, ""
	if strings.Contains(publicKey, "\n") {
		publicKey, pem = "", publicKey
	}
	t.pairs("",
		"Account", doc.Name,
		"Signature", doc.Signature,
		"Signature hex", doc.SignatureHex,
		"Format", doc.Format,
		"r", doc.R,
		"s", doc.S,
		"v", v,
		"Digest", doc.Digest,
		"Public key", publicKey,
		"Derivation path", doc.Path,
		"Taproot tweak", doc.TaprootTweak,
		"Share epoch", count64(doc.ShareEpoch),
		"Signers", strings.Join(signers, ", "),
		"Session", doc.SessionID,
		"Attempts", attempts,
		"Presigned", presigned,
		"Request ID", doc.RequestID,
		"Replayed", replayed,
	)
	if pem != "" {
		t.blank()
		t.block(pem)
	}
}
