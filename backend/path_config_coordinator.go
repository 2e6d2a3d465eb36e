package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/secret"
)

func (b *backend) pathConfigCoordinator() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"certificate":  field(framework.TypeString, "The certificate, PEM; with its chain where one was brought."),
		"pin":          field(framework.TypeString, "SHA-256 of its public key (SubjectPublicKeyInfo) in hex, which nodes pin."),
		"subject":      field(framework.TypeString, "Its subject."),
		"not_before":   field(framework.TypeString, "From when on it is valid."),
		"not_after":    field(framework.TypeString, "Until when it is valid."),
		"made":         field(framework.TypeBool, "Whether the engine made it."),
		"updated_time": field(framework.TypeString, "When it was made or brought."),
	}
	write := b.handle("config/coordinator", 0, b.configCoordinatorWrite)
	return []*framework.Path{{
		Pattern:      "config/coordinator$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "coordinator-configuration"},
		Fields: map[string]*framework.FieldSchema{
			"certificate": textField("Certificate", "TLS client certificate of this mount, PEM, followed by its chain."),
			"private_key": onceField("Private key", "Its key, PKCS#8 in PEM. Stored, never returned."),
			"force": {
				Type: framework.TypeBool, Description: "Take another key although nodes are enrolled that may have pinned the present one; default false.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Force"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyCoordinator)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Bring the mount's TLS certificate.", true, write, answer),
			logical.UpdateOperation: b.operation("Bring the mount's TLS certificate.", true, write, answer),
			logical.ReadOperation:   b.operation("Read the mount's TLS certificate.", false, b.handle("config/coordinator", 0, b.configCoordinatorRead), answer),
		},
		HelpSynopsis: "The TLS certificate by which nodes on other hosts know this mount.",
		HelpDescription: `
The engine makes a certificate when the first node is enrolled, and nodes pin its
public key. Where an organization has a PKI of its own, bring one before that:

  $ vault write mpc/config/coordinator certificate=@mpc.crt private_key=@mpc.key

One that the engine made is good for ten years and can be renewed for the same key,
which nodes notice nothing of:

  $ vault write -force mpc/config/coordinator

A renewed certificate of the same key is taken at any time. Another key locks the
mount out of every node that has pinned the present one, so that it needs force=true
while nodes are enrolled: nodes whose configuration names client_ca_file take any
certificate of that CA, the others have to be enrolled again (node enrol --again).
`,
	}}
}

func coordinatorAnswer(r *coordinatorRecord) (*logical.Response, error) {
	facts, err := r.facts()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"certificate": r.Certificate, "pin": facts.pin, "subject": facts.subject,
		"not_before": rfc3339(facts.notBefore), "not_after": rfc3339(facts.notAfter),
		"made": r.Made, "updated_time": rfc3339(r.Updated),
	}}, nil
}

func (b *backend) configCoordinatorRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.coordinator(ctx)
	if err != nil || r == nil {
		return nil, err // Vault answers 404
	}
	return coordinatorAnswer(r)
}

func (b *backend) configCoordinatorWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	certificate, key := data.Get("certificate").(string), data.Get("private_key").(string)
	if certificate == "" && key == "" {
		return b.renewCoordinator(ctx)
	}
	if certificate == "" || key == "" || len(certificate) > maxTLSText || len(key) > maxTLSText {
		return nil, invalid("certificate or private_key is missing or longer than %d bytes: send both, with the vault command as certificate=@FILE private_key=@FILE", maxTLSText)
	}
	next, err := keyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, invalid("nothing was changed: %v", err)
	}
	if err := checkClientCertificate(next, b.cfg.now()); err != nil {
		return nil, invalid("nothing was changed, the certificate cannot be used: %v", err)
	}
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	old, err := b.store.coordinator(ctx)
	if err != nil {
		return nil, err
	}
	remote, err := b.store.remoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	if old != nil && len(remote) > 0 && data.Get("force") != true {
		present, err := keyPair([]byte(old.Certificate), []byte(old.Key))
		if err != nil {
			return nil, &damagedError{keyCoordinator, err}
		}
		if !samePublicKey(present, next) {
			return nil, invalid("nothing was changed: %d node(s) are enrolled, and those that pinned the present key would refuse this mount from now on; send a certificate of the same key, or force=true if their configuration names a client_ca_file that this one is of", len(remote))
		}
	}
	r := &coordinatorRecord{Version: recordVersion, Certificate: certificate, Key: key, Updated: b.cfg.now().UTC()}
	if err := b.store.put(ctx, keyCoordinator, r); err != nil {
		return nil, err
	}
	if err := b.applyChange(ctx); err != nil {
		return nil, err
	}
	return coordinatorAnswer(r)
}

// renewCoordinator makes another certificate for the key of one that the engine made.
func (b *backend) renewCoordinator(ctx context.Context) (*logical.Response, error) {
	release, err := b.busy.reserve(keyNodes, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.coordinator(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil || !r.Made || b.cfg.Enroller == nil {
		return nil, invalid("there is no certificate that the engine made and could renew: send certificate and private_key, with the vault command as certificate=@FILE private_key=@FILE")
	}
	mount, err := b.needMount(ctx)
	if err != nil {
		return nil, err
	}
	next, now := *r, b.cfg.now().UTC()
	key := secret.New([]byte(r.Key))
	defer key.Wipe()
	renewed, err := b.cfg.Enroller.RenewCertificate(coordinatorName(mount), key, now.Add(coordinatorLifetime))
	if err != nil {
		return nil, err
	}
	next.Version, next.Certificate, next.Updated = recordVersion, string(renewed), now
	if _, err := next.facts(); err != nil {
		return nil, err
	}
	if err := b.store.put(ctx, keyCoordinator, &next); err != nil {
		return nil, err
	}
	if err := b.applyChange(ctx); err != nil {
		return nil, err
	}
	return coordinatorAnswer(&next)
}
