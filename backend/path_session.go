package backend

import (
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathSession() []*framework.Path {
	session := textField("Session", "ID of the session, from login/finish.")
	return []*framework.Path{{
		Pattern:      "session/call$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "call", OperationSuffix: "session"},
		Fields: map[string]*framework.FieldSchema{
			"session": session,
			"sequence": {
				Type: framework.TypeInt64, Description: "Number of the call: from 1, higher than that of every call before.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Sequence"},
			},
			"operation": textField("Operation", "read, list, write or delete."),
			"path":      textField("Path", "Path below the mount, such as identities/alice."),
			"message":   textField("Message", "The fields of the request, sealed for this session, in base64."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			// Signing with an account may take as long as without a session.
			logical.UpdateOperation: b.operation("Send a request through a session.", true, b.handle("session/call", maxSessionTimeout, b.sessionCall), map[string]*framework.FieldSchema{
				"status":  field(framework.TypeInt, "HTTP status of the answer inside."),
				"message": field(framework.TypeString, "The answer, sealed for this session, in base64: data, warnings and errors."),
			}),
		},
		HelpSynopsis: "A request to another path, through the session of a login instead of with a Vault token.",
		HelpDescription: `
Sends a request to a path of this mount, sealed between client and engine. A session
may read and write what its authenticator opens and nothing else: its identities with
their assets, itself and its devices, accounts whose custody key is among its assets;
with the owner role it may freeze an identity and report its authenticators lost.

  $ mpckms login --authenticator alice-password

Operation and path are in clear, for the audit log; the rest is not. A message is
taken once and in order: one that is sent again, changed or put elsewhere is refused,
and nothing is done. Sessions are in the memory of the active server: they end with
their time (session_ttl of mpc/config/identities), with a restart, and when the
authenticator is reported lost.
`,
	}, {
		Pattern:      "session/end$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "end", OperationSuffix: "session"},
		Fields:       map[string]*framework.FieldSchema{"session": session},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.noContent("End a session.", b.handle("session/end", 0, b.sessionEnd)),
		},
		HelpSynopsis: "End a session.",
		HelpDescription: `
Ends a session; one that is not there is ended already:

  $ vault write mpc/session/end session=00112233445566778899aabbccddeeff

mpckms does so by itself when it has done its work.
`,
	}}
}
