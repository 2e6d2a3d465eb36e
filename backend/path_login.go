package backend

import (
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// textField is a text of a request that is not secret.
func textField(title, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: title}}
}

// onceField is what may be used once by whoever has it.
func onceField(title, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: title, Sensitive: true}}
}

// loginPath is one step of a login. It runs on the active server, which has the
// nodes, and what is between two steps, in memory.
func (b *backend) loginPath(step, summary string, fields map[string]*framework.FieldSchema, h framework.OperationFunc, answer map[string]*framework.FieldSchema, synopsis, help string) *framework.Path {
	return &framework.Path{
		Pattern:         "login/" + step + "$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: step, OperationSuffix: "login"},
		Fields:          fields,
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: b.operation(summary, true, b.handle("login/"+step, 0, h), answer)},
		HelpSynopsis:    synopsis,
		HelpDescription: help,
	}
}

func (b *backend) pathLogin() []*framework.Path {
	challenge := textField("Challenge", "The challenge that login/challenge gave.")
	return []*framework.Path{
		b.loginPath("challenge", "Ask for the parameters of a login.",
			map[string]*framework.FieldSchema{
				"authenticator": textField("Authenticator", "Name of the authenticator."),
				"kind":          textField("Kind", "Its kind: password, key-file, certificate, device, oidc, phone or passkey."),
			}, b.loginChallenge,
			map[string]*framework.FieldSchema{
				"challenge":            field(framework.TypeString, "Is sent back with the next step; for five minutes."),
				"expires_time":         field(framework.TypeString, "Until when."),
				"login_id":             field(framework.TypeString, "ID of the authenticator: 32 hex digits."),
				"kdf":                  field(framework.TypeMap, "Parameters of Argon2id: time, memory_kib and threads. Clients refuse weak ones."),
				"personal_information": field(framework.TypeString, "The question that is asked besides; empty for none."),
				"pin":                  field(framework.TypeBool, "Whether a PIN belongs to it."),
				"phone_sent":           field(framework.TypeBool, "Kind phone: a code is on its way, if there is such a phone."),
				"certificate":          optional(framework.TypeMap, "Kind certificate: algorithm and sealed (base64), which the certificate's key opens."),
				"passkey":              optional(framework.TypeMap, "Kind passkey: relying_party, credential_id and salt (base64)."),
				"oidc":                 optional(framework.TypeMap, "Kind oidc: provider, issuer, client_id, client_secret (empty for most; not confidential), scopes, and the nonce for the ID token."),
			},
			"Begin to log in with an authenticator, without a Vault token.", `
Begins a login. The client does all of it, and the secret stays there:

  $ mpckms login --authenticator alice-password

By hand, to see what a client gets:

  $ vault write mpc/login/challenge authenticator=alice-password kind=password

An authenticator that does not exist, or is of another kind, is answered in the same
way and always the same, and the login fails at its end. Of kind phone a code is
sent to the webhook of mpc/config/identities, at most one in 30 seconds, and less
often as long as no login succeeds.
`),
		b.loginPath("release", "Have the server's part of the authentication information released.",
			map[string]*framework.FieldSchema{
				"challenge":     challenge,
				"client_public": textField("Client's key", "X25519 key that the part is sealed to: 32 bytes in base64."),
				"id_token":      onceField("ID token", "Kind oidc: the token that the third party gave, with the challenge's nonce."),
				"code":          onceField("Code", "Kind phone: the six digits that were sent."),
			}, b.loginRelease,
			map[string]*framework.FieldSchema{
				"sealed_part": field(framework.TypeString, "The part, sealed to client_public (base64)."),
			},
			"Show an ID token or a one-time code, for kinds that have a part on the server.", `
Authenticators of kind oidc and phone have a part of their authentication
information here. It is released for an ID token with the challenge's nonce, or for
the code that was sent, sealed to a key of the client:

  $ mpckms login --authenticator alice-google

A challenge is released for once. Three wrong codes end it, and each counts as an
attempt that did not succeed; see mpc/login/start.
`),
		b.loginPath("start", "Begin the password-authenticated key exchange.",
			map[string]*framework.FieldSchema{
				"challenge": challenge,
				"ke1":       textField("KE1", "First message of OPAQUE (RFC 9807), in base64."),
			}, b.loginStart,
			map[string]*framework.FieldSchema{
				"login": field(framework.TypeString, "ID of the login under way, for login/finish."),
				"ke2":   field(framework.TypeString, "Second message of OPAQUE, in base64."),
			},
			"The first message of OPAQUE, and its answer.", `
Answers the first message of OPAQUE (RFC 9807), inside a node:

  $ mpckms login --authenticator alice-password

Each start counts as an attempt until a login with that authenticator succeeds. After
5 in a row none is taken for a minute, after 10 for a quarter of an hour, after 20,
30 and so on for a day. That is so for names that do not exist, too. To end it:

  $ vault write -force mpc/authenticators/alice-password/unlock
`),
		b.loginPath("finish", "Finish the key exchange and open a session.",
			map[string]*framework.FieldSchema{
				"login": textField("Login", "What login/start gave."),
				"ke3":   textField("KE3", "Third message of OPAQUE (RFC 9807), in base64."),
			}, b.loginFinish,
			map[string]*framework.FieldSchema{
				"session":      field(framework.TypeString, "ID of the session, for session/call."),
				"expires_time": field(framework.TypeString, "When it ends by itself."),
				"message":      field(framework.TypeString, "For the client alone, in base64: its authenticator and the identities that it opens."),
			},
			"The third message of OPAQUE, which opens a session.", `
Takes the third message of OPAQUE, which only who knows the secret can make, and
opens a session (mpc/session/call):

  $ mpckms login --authenticator alice-password

It answers 403 for whatever is wrong, and 409 where the secret is right and the
authenticator was reported lost.
`),
	}
}
