package backend

import (
	"context"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathConfigIdentities() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"session_ttl":              field(framework.TypeInt64, "How long a session lasts, in seconds."),
		"phone_webhook":            field(framework.TypeString, "Where one-time codes go; empty for nowhere."),
		"phone_webhook_header_set": field(framework.TypeBool, "Whether an Authorization header goes with them."),
		"passkey_relying_party":    field(framework.TypeString, "The site that passkeys belong to; empty for none."),
	}
	write := b.handle("config/identities", 0, b.configIdentitiesWrite)
	return []*framework.Path{{
		Pattern: "config/identities$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "identities-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"session_ttl": {
				Type: framework.TypeDurationSecond, Description: "How long a session lasts, 1m to 12h; default 15m. It holds for sessions that begin after it.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Session time", Value: "15m"},
			},
			"phone_webhook":         textField("Phone webhook", "URL that takes one-time codes for phones, by POST: a JSON object with phone, code and expires_time. https, or http on this host; empty for none. It is shown to who may read this: put secrets into phone_webhook_header."),
			"phone_webhook_header":  onceField("Authorization header", "Value of the Authorization header for phone_webhook; empty for none. It is not shown again, and has to be written anew with another phone_webhook."),
			"passkey_relying_party": textField("Relying party", "The site that passkeys belong to (WebAuthn's RP ID): localhost, or a name below it, for mpckms, which serves the page itself; empty for none. Logins with passkeys that do not exist show it, so have one for all, and leave it as it is once there are passkeys."),
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyIdentities)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure logins of identities.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure logins of identities.", true, write, answer),
			logical.ReadOperation:   b.operation("Read the configuration of logins.", false, b.handle("config/identities", 0, b.configIdentitiesRead), answer),
		},
		HelpSynopsis: "How long sessions last, and who sends one-time codes.",
		HelpDescription: `
Sets how people log in to their identities:

  $ vault write mpc/config/identities session_ttl=10m
  $ vault write mpc/config/identities phone_webhook=https://sms.example.com/send phone_webhook_header="Bearer 0123456789"
  $ vault write mpc/config/identities passkey_relying_party=localhost

Fields that are left out keep their value. Third parties whose accounts people log
in with are in mpc/config/identities/oidc/NAME. Passkeys are used on a page that mpckms
serves on its user's own machine, so that their secret does not reach Vault.

The webhook gets the phone number and the code and has ten seconds for its answer,
a status from 200 to 299. It is called for phones that exist only, after the answer
to whoever wants to log in was given, so that he learns nothing from its time. What
goes wrong with it is in Vault's log.
`,
	}}
}

func identitiesConfigAnswer(r *identitiesConfigRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{
		"session_ttl":              r.SessionTTL,
		"phone_webhook":            r.PhoneWebhook,
		"phone_webhook_header_set": r.PhoneWebhookHeader != "",
		"passkey_relying_party":    r.PasskeyRelyingParty,
	}}
}

func (b *backend) configIdentitiesRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	return identitiesConfigAnswer(r), nil
}

// changeIdentitiesConfig changes the record as a whole, one request after the
// other.
func (b *backend) changeIdentitiesConfig(ctx context.Context, change func(*identitiesConfigRecord) error) (*identitiesConfigRecord, error) {
	release, err := b.busy.reserve(keyIdentities, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	if err := change(r); err != nil {
		return nil, err
	}
	r.Version = recordVersion
	return r, b.store.put(ctx, keyIdentities, r)
}

func (b *backend) configIdentitiesWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.changeIdentitiesConfig(ctx, func(r *identitiesConfigRecord) error { return takeIdentitiesConfig(r, data) })
	if err != nil {
		return nil, err
	}
	return identitiesConfigAnswer(r), nil
}

var domain = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) // read only

func takeIdentitiesConfig(r *identitiesConfigRecord, data *framework.FieldData) error {
	if v, ok := data.GetOk("session_ttl"); ok {
		if r.SessionTTL = int64(v.(int)); !within(r.SessionTTL, minSessionTTL, maxSessionTTL) {
			return invalid("session_ttl must be %s to %s", short(minSessionTTL), short(maxSessionTTL))
		}
	}
	header, headerGiven := data.GetOk("phone_webhook_header")
	if v, ok := data.GetOk("phone_webhook"); ok {
		hook := v.(string)
		if hook != "" {
			if err := checkWebURL("phone_webhook", hook); err != nil {
				return err
			}
		}
		if hook != r.PhoneWebhook && r.PhoneWebhookHeader != "" && !headerGiven && hook != "" {
			// Else it would go to whoever is named now.
			return invalid("phone_webhook changes: write phone_webhook_header with it, empty for none. The one that is stored is for the URL before")
		}
		if r.PhoneWebhook = hook; hook == "" {
			r.PhoneWebhookHeader = ""
		}
	}
	if headerGiven {
		text := header.(string)
		if len(text) > 4096 || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) {
			return invalid("phone_webhook_header must be at most 4096 printable ASCII characters")
		}
		if text != "" && r.PhoneWebhook == "" {
			return invalid("phone_webhook_header goes with a phone_webhook, and there is none")
		}
		r.PhoneWebhookHeader = text
	}
	if v, ok := data.GetOk("passkey_relying_party"); ok {
		r.PasskeyRelyingParty = v.(string)
		if r.PasskeyRelyingParty != "" && (len(r.PasskeyRelyingParty) > 253 || !domain.MatchString(r.PasskeyRelyingParty)) {
			return invalid("passkey_relying_party must be a domain in lower case, such as vault.example.com")
		}
	}
	return nil
}
