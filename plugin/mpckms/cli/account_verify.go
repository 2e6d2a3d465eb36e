package cli

import (
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"
)

// verifyDoc is the JSON document of `account verify`.
type verifyDoc struct {
	Name  string `json:"name"`
	Valid bool   `json:"valid"`
}

func (a *app) accountVerifyCommand() *cobra.Command {
	var (
		in        inputFlags
		child     childFlags
		signature string
	)
	cmd := &cobra.Command{
		Use:   "verify NAME --signature BASE64 (--input TEXT | --input-file FILE | --digest HEX)",
		Short: "Ask the engine whether a signature is valid",
		Long: `Ask the engine whether a signature belongs to a message or digest and an account.
The exit code is 0 when it is valid and 1 when it is not.`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !validSignature(signature, in.format) {
				return usagef(cmd, "--signature takes the signature in base64 (base64url with --format jws), as 'account sign' prints it")
			}
			body, err := in.body(cmd, a.stdin)
			if err != nil {
				return err
			}
			body["signature"] = signature
			child.add(body)
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := verifyDoc{Name: args[0]}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("verify a signature of account %q", args[0]),
				capability: capUpdate, path: "verify/" + args[0], body: body, account: args[0],
			}, &doc)
			if err != nil {
				return err
			}
			if err := a.print(doc, func(t *text) {
				t.pairs("", "Account", doc.Name, "Valid", yesNo(doc.Valid))
			}); err != nil {
				return err
			}
			if !doc.Valid {
				return &refusal{what: fmt.Sprintf("the signature is not valid for this input and account %q", doc.Name)}
			}
			return nil
		},
	}
	in.register(cmd)
	child.register(cmd)
	cmd.Flags().StringVar(&signature, "signature", "", "the signature in base64, as 'account sign' prints it with the same --format")
	return cmd
}

// validSignature reports whether s is encoded as signatures of a format are.
// What it says is the server's to judge.
func validSignature(s, format string) bool {
	encoding := base64.StdEncoding
	if format == formatJWS {
		encoding = base64.RawURLEncoding
	}
	_, err := encoding.DecodeString(s)
	return s != "" && err == nil
}
