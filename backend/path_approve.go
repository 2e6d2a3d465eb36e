package backend

import (
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// approvePath is one call of an approver's device. It runs on the active server,
// which has the tickets and the counts in memory.
func (b *backend) approvePath(step, summary string, fields map[string]*framework.FieldSchema, h framework.OperationFunc, answer map[string]*framework.FieldSchema, synopsis, help string) *framework.Path {
	return &framework.Path{
		Pattern:         "approve/" + step + "$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: step, OperationSuffix: "approval"},
		Fields:          fields,
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: b.operation(summary, true, b.handle("approve/"+step, 0, h), answer)},
		HelpSynopsis:    synopsis,
		HelpDescription: help,
	}
}

func (b *backend) pathApprove() []*framework.Path {
	request := textField("Request", "ID of the request: 32 hex digits.")
	number := func(title, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeInt64, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: title}}
	}
	return []*framework.Path{
		b.approvePath("open", "Show a request to a device that has scanned its code.",
			map[string]*framework.FieldSchema{
				"request":   request,
				"form":      textField("Form", "Form of the moving code that was scanned: 16 bytes in base64url."),
				"key":       textField("Key", "ID of the device key: 32 hex digits."),
				"time":      number("Time", "The device's clock, in seconds since 1970; at most two minutes off."),
				"signature": textField("Signature", "The device key's signature to see the request: r and s, 64 bytes in base64."),
			}, b.approveOpen,
			map[string]*framework.FieldSchema{
				"ticket":              field(framework.TypeString, "Answers this request with this device: 32 bytes in base64url, for five minutes."),
				"ticket_expires_time": field(framework.TypeString, "Until when; not beyond the request's expiry."),
				"request":             field(framework.TypeString, "ID of the request."),
				"state":               field(framework.TypeString, "Always pending."),
				"action":              field(framework.TypeString, "What is asked for: sign, or policy for another policy of the account."),
				"mount_id":            field(framework.TypeString, "ID of the mount: 16 bytes in hex."),
				"account_id":          field(framework.TypeString, "ID of the account: 16 bytes in hex."),
				"account":             field(framework.TypeString, "Its name when it was asked."),
				"public_key":          field(framework.TypeString, "Its public key in hex, as the statement has it."),
				"algorithm":           field(framework.TypeString, "Its algorithm."),
				"requester":           field(framework.TypeString, "Who asks, as the server knows them."),
				"requester_name":      field(framework.TypeString, "What they are called."),
				"expires":             field(framework.TypeInt64, "When approvals cease to count, in seconds since 1970."),
				"policy":              field(framework.TypeString, "The policy in force, in base64; the statement has its SHA-256."),
				"next_policy":         field(framework.TypeString, "Of a change of policy: the one to come, in base64; else empty."),
				"epoch":               field(framework.TypeInt64, "Of a change of policy: the account's epoch; else 0."),
				"input":               field(framework.TypeString, "What is to be signed, in base64. The device shows it, and hashes it itself."),
				"message_type":        field(framework.TypeString, "What input is."),
				"hash_algorithm":      field(framework.TypeString, "Hash of a digest; empty for the algorithm's own."),
				"message_hash":        optional(framework.TypeString, "SHA-256 of input in hex, to compare with the device's own."),
				"digest":              optional(framework.TypeString, "What ECDSA signs, in hex, as the signature's answer will show it."),
				"derivation_path":     field(framework.TypeString, "Of a derived key; else empty."),
				"taproot_tweak":       field(framework.TypeString, "Of a tweaked key; else empty."),
				"approver_id":         field(framework.TypeString, "Whose device this is: ID in hex."),
				"approver_name":       field(framework.TypeString, "And name in the policy."),
				"login":               field(framework.TypeBool, "Whether a login of the approver counts as a factor now."),
				"approvals":           field(framework.TypeInt, "Who has approved so far, in number."),
				"refusals":            field(framework.TypeInt, "Who has refused, in number."),
				"quorum":              field(framework.TypeInt, "How many have to approve."),
				"server_time":         field(framework.TypeInt64, "The server's clock, in seconds since 1970."),
				"server_unix_ms":      field(framework.TypeInt64, "The same in milliseconds."),
			},
			"What a request asks for, for a device that has scanned its moving code.", `
Takes the form of the code that is on the display, or the one before it, each once
from each device, and a signature of a device key which the account's policy names;
no Vault token. Then everything is answered that the device needs to show what is
asked for and to build the statement that it signs.

  $ mpckms device show "$LINK"

Whatever is wrong is answered by the same 403: an old code, a code of another
request, one that was used before, a device that the policy does not name, a clock
that is off by more than two minutes. After 20 in a row the answer is 429 for a
minute, and for longer each time. The ticket is in the memory of the active server:
after a restart the code is scanned anew.
`),
		b.approvePath("answer", "Approve or refuse a request.",
			map[string]*framework.FieldSchema{
				"ticket":     onceField("Ticket", "What approve/open gave."),
				"decision":   textField("Decision", "approve or refuse."),
				"signatures": {Type: framework.TypeSlice, Description: "Signatures over the statement, up to eight: key (ID in hex) and signature, and of a passkey authenticator_data and client_data, in base64. That of the device which opened the request is among them.", DisplayAttrs: &framework.DisplayAttributes{Name: "Signatures"}},
				"totp":       onceField("One-time code", "Six digits, where that is one of the factors."),
			}, b.approveAnswer,
			map[string]*framework.FieldSchema{
				"request":   field(framework.TypeString, "ID of the request."),
				"state":     field(framework.TypeString, "Its state now: pending, approved, signed or refused."),
				"decision":  field(framework.TypeString, "What was recorded."),
				"approvals": field(framework.TypeInt, "Who has approved, in number."),
				"refusals":  field(framework.TypeInt, "Who has refused, in number."),
				"quorum":    field(framework.TypeInt, "How many have to approve."),
			},
			"An approver's answer to a request, with the factors that the policy asks for.", `
Approves or refuses a request that approve/open has shown; no Vault token. To approve
takes as many different kinds of factors as the policy says: the signature of the
device, of a passkey or of a certificate's key over the statement, a one-time code, a
login through a session (mpc/requests/:id/login). To refuse takes the signature of the
device over the statement that refuses.

  $ mpckms device approve "$LINK"
  $ mpckms device refuse "$LINK"

Either everything is right and the answer is recorded, or nothing is. The third wrong
factor ends the ticket: scan the code anew. Wrong one-time codes are counted for the
approver, as passwords are for authenticators. Each approver answers a request once.
`),
		b.approvePath("progress", "Follow a request from the display of its code.",
			map[string]*framework.FieldSchema{
				"request": request,
				"proof":   textField("Proof", "HMAC-SHA256 that shows possession of the request's seed: 32 bytes in base64."),
			}, b.approveProgress,
			map[string]*framework.FieldSchema{
				"state":          field(framework.TypeString, "State of the request."),
				"reason":         field(framework.TypeString, "Why it ended, where that is not clear, or, of an approved request, why it is held; else empty."),
				"account":        field(framework.TypeString, "Name of the account."),
				"action":         field(framework.TypeString, "sign or policy."),
				"approvals":      field(framework.TypeInt, "Who has approved, in number."),
				"refusals":       field(framework.TypeInt, "Who has refused, in number."),
				"quorum":         field(framework.TypeInt, "How many have to approve."),
				"approvers":      field(framework.TypeInt, "How many may."),
				"names":          field(framework.TypeStringSlice, "Who has answered, by name."),
				"answered":       field(framework.TypeSlice, "Who has answered: name, decision and time of each."),
				"expires":        field(framework.TypeInt64, "When it expires, in seconds since 1970."),
				"server_time":    field(framework.TypeInt64, "The server's clock, in seconds since 1970."),
				"server_unix_ms": field(framework.TypeInt64, "The same in milliseconds."),
			},
			"How far a request is, for the page that shows its code.", `
Tells whoever has a request's seed how far it is; no Vault token. The page that shows
the moving code asks here. A request that does not exist is refused as a wrong proof
is.

  $ vault write mpc/approve/progress request=00112233445566778899aabbccddeeff proof="$PROOF"
`),
		{
			Pattern:      "requests/" + `(?P<request>[^/]+)` + "/login$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "login", OperationSuffix: "request"},
			Fields: map[string]*framework.FieldSchema{
				"request": {Type: framework.TypeString, Description: "ID of the request: 32 hex digits.", DisplayAttrs: &framework.DisplayAttributes{Name: "Request", Identifier: true}},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.operation("Note that an approver has logged in for a request.", true, b.handle("requests/login", 0, b.requestLogin), map[string]*framework.FieldSchema{
					"request":      field(framework.TypeString, "ID of the request."),
					"approvers":    field(framework.TypeStringSlice, "Who has logged in, by their names in the policy."),
					"login_time":   field(framework.TypeString, "When."),
					"counts_until": field(framework.TypeString, "The request has to be opened on the device until then, for the login to count."),
				}),
			},
			HelpSynopsis: "The factor login: the approver of this identity has logged in.",
			HelpDescription: `
Notes for a request that its approver has logged in as the identity that the approver
is. It is called through the session of that login, within five minutes of it, and
refused with a Vault token. The login counts as one kind of factor, checked by this
server and not by nodes, for requests that are opened on the device within five
minutes of the login.

  $ mpckms device approve --login "$LINK"
`,
		},
	}
}
