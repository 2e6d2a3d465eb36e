package backend

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// Bounds of the devices of one authenticator. Revoked ones are kept so that a
// device learns what became of it; the oldest of them go first.
const (
	maxDevices      = 64 // bound at once
	maxDeviceStones = 64 // revoked ones that are remembered
	maxDeviceLabel  = 128
)

func deviceAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"id":             field(framework.TypeString, "ID of the device, in hex."),
		"identity":       field(framework.TypeString, "Name of the identity whose roles the device holds; empty where that is not there any more."),
		"identity_id":    field(framework.TypeString, "Its ID, in hex."),
		"identity_state": field(framework.TypeString, "active or frozen; empty where the identity is not there any more, or has taken the grant back."),
		"label":          field(framework.TypeString, "What the user calls the device."),
		"state":          field(framework.TypeString, "bound or revoked. A device that is revoked removes what it holds."),
		"bound_time":     field(framework.TypeString, "When it was bound."),
		"revoked_time":   field(framework.TypeString, "When its binding was ended by itself; empty where it was not, also where its authenticator is lost or granted nothing any more."),
	}
}

func (b *backend) pathDevices() []*framework.Path {
	return []*framework.Path{{
		Pattern: "authenticators/" + namePattern + "/devices/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "devices", ItemType: "Device",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":     pathField("Authenticator", "authenticator"),
			"identity": {Type: framework.TypeString, Description: "Name of the identity that the device is to open.", DisplayAttrs: &framework.DisplayAttributes{Name: "Identity"}},
			"label":    {Type: framework.TypeString, Description: "What the user calls the device, up to 128 bytes; not secret.", DisplayAttrs: &framework.DisplayAttributes{Name: "Label"}},
			"device":   {Type: framework.TypeString, Description: "ID of the device, which it has drawn: 32 hex digits.", DisplayAttrs: &framework.DisplayAttributes{Name: "Device"}},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Note that a device was bound.", true, b.handle("authenticators/devices/bind", scanTimeout, b.deviceBind), deviceAnswerFields()),
			logical.ListOperation: b.operation("List the devices that were bound with an authenticator.", false, b.handle("authenticators/devices", scanTimeout, b.devicesList), map[string]*framework.FieldSchema{
				"keys":     optional(framework.TypeStringSlice, "IDs of the devices, by the time at which they were bound."),
				"key_info": optional(framework.TypeMap, "By ID: identity, label, state, bound_time and revoked_time."),
			}),
		},
		HelpSynopsis: "Devices that open an identity without the server.",
		HelpDescription: `
Lists the devices that were bound with an authenticator:

  $ vault list -detailed mpc/authenticators/alice-password/devices

A bound device holds role keys of an identity, under a key that only the
authenticator's own secret gives. The client binds, and notes it here:

  $ mpckms device bind alice --label laptop

Authenticators of kind oidc and phone bind no devices: a part of them is here.
`,
	}, {
		Pattern: "authenticators/" + namePattern + "/devices/(?P<device>[^/]+)$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "device", ItemType: "Device",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": pathField("Authenticator", "authenticator"),
			"device": {
				Type: framework.TypeString, Description: "ID of the device: 32 hex digits.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Device", Identifier: true},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation("Read whether a device is still bound.", false, b.handle("authenticators/devices/read", scanTimeout, b.deviceRead), deviceAnswerFields()),
			logical.DeleteOperation: b.noContent("Revoke a device.", b.handle("authenticators/devices/delete", scanTimeout, b.deviceDelete)),
		},
		HelpSynopsis: "A device: whether it is still bound.",
		HelpDescription: `
Shows whether a device is still bound, which it asks itself when it has the server:

  $ vault read mpc/authenticators/alice-password/devices/00112233445566778899aabbccddeeff

Revoking it tells the device at its next contact to remove what it holds:

  $ vault delete mpc/authenticators/alice-password/devices/00112233445566778899aabbccddeeff

A stolen device does not ask. Where its authenticator's secret may be known as well,
report that lost and have the identity reset.
`,
	}}
}

// deviceAnswer says what is known of a device, given where its authenticator is
// granted. It is bound as long as nobody has ended that in any way.
func deviceAnswer(r *authenticatorRecord, d deviceRecord, granted []grantedIdentity) map[string]any {
	name, identityState := "", ""
	for _, g := range granted {
		if g.ID.String() == d.Identity {
			name, identityState = g.Name, string(stateActive)
			if g.Frozen {
				identityState = string(stateFrozen)
			}
		}
	}
	state := "bound"
	if !d.Revoked.IsZero() || r.Lost != nil || name == "" {
		state = "revoked"
	}
	return map[string]any{
		"id": d.ID, "identity": name, "identity_id": d.Identity, "identity_state": identityState, "label": d.Label,
		"state": state, "bound_time": rfc3339(d.Bound), "revoked_time": rfc3339(d.Revoked),
	}
}

func (b *backend) devicesList(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	r, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	granted, _, err := b.grantedIn(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	var ids []string
	info := map[string]any{}
	for _, d := range r.Devices {
		ids = append(ids, d.ID)
		info[d.ID] = deviceAnswer(r, d, granted)
	}
	return listAnswer(ids, info, ""), nil
}

// devicePath reads the authenticator and the device's ID.
func (b *backend) devicePath(ctx context.Context, data *framework.FieldData) (name, id string, r *authenticatorRecord, a *identity.Authenticator, err error) {
	if name, err = pathText(data, "name", "authenticator"); err != nil {
		return "", "", nil, nil, err
	}
	if id, err = deviceID(data); err != nil {
		return "", "", nil, nil, err
	}
	r, a, err = b.needAuthenticator(ctx, name)
	return name, id, r, a, err
}

func deviceID(data *framework.FieldData) (string, error) {
	text, _ := data.Get("device").(string)
	id, err := identity.ParseID(text)
	if err != nil {
		return "", invalid("device must be an ID of 32 lower-case hex digits, not %q", clip(text))
	}
	return id.String(), nil
}

func (r *authenticatorRecord) device(id string) *deviceRecord {
	if i := slices.IndexFunc(r.Devices, func(d deviceRecord) bool { return d.ID == id }); i >= 0 {
		return &r.Devices[i]
	}
	return nil
}

func (b *backend) deviceRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, id, r, a, err := b.devicePath(ctx, data)
	if err != nil {
		return nil, err
	}
	d := r.device(id)
	if d == nil {
		return nil, noDevice(name, id)
	}
	granted, _, err := b.grantedIn(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: deviceAnswer(r, *d, granted)}, nil
}

func noDevice(name, id string) error {
	return unknown("no device %s is bound with authenticator %q: list authenticators/%s/devices for those there are", id, name, name)
}

// deviceBind notes a device. A repetition of it changes the label at most.
func (b *backend) deviceBind(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	owner, err := pathText(data, "identity", "identity")
	if err != nil {
		return nil, err
	}
	id, err := deviceID(data)
	if err != nil {
		return nil, err
	}
	label := data.Get("label").(string)
	if label == "" || len(label) > maxDeviceLabel || !printable(label) {
		return nil, invalid("label must be printable UTF-8 of 1 to %d bytes", maxDeviceLabel)
	}
	defer b.lockAuthenticator(name)()
	r, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Method.HasServerPart():
		return nil, invalid("authenticators of kind %s bind no devices, since the server keeps a part of them: use another one", a.Method)
	case r.Lost != nil:
		return nil, conflict("authenticator %q was reported lost at %s: nothing was bound", name, rfc3339(r.Lost.Time))
	}
	granted, _, err := b.grantedIn(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(granted, func(g grantedIdentity) bool { return g.Name == owner })
	if i < 0 {
		return nil, conflict("identity %q grants authenticator %q nothing, so that the device could not open it: nothing was bound", owner, name)
	}
	if granted[i].Frozen {
		return nil, conflict("identity %q is frozen: nothing was bound; unfreeze it first", owner)
	}
	if err := r.bind(deviceRecord{ID: id, Identity: granted[i].ID.String(), Label: label, Bound: b.utcSeconds()}); err != nil {
		return nil, err
	}
	r.Version = recordVersion
	if err := b.store.put(ctx, prefixAuthentic+name, r); err != nil {
		return nil, err
	}
	b.log.Info("a device was bound", "authenticator", name, "identity", owner, "device", id)
	return &logical.Response{Data: deviceAnswer(r, *r.device(id), granted)}, nil
}

// bind adds a device.
func (r *authenticatorRecord) bind(d deviceRecord) error {
	if was := r.device(d.ID); was != nil {
		if was.Identity != d.Identity || !was.Revoked.IsZero() {
			return conflict("device %s is bound to another identity or was revoked: nothing was bound; draw a new ID for a new binding", d.ID)
		}
		was.Label = d.Label
		return nil
	}
	bound := 0
	for _, other := range r.Devices {
		if other.Revoked.IsZero() {
			bound++
		}
	}
	if bound >= maxDevices {
		return conflict("%d devices are bound with this authenticator, which is as many as can be: nothing was bound; revoke one first", bound)
	}
	r.Devices = append(r.Devices, d)
	return nil
}

// revoke ends a binding, and forgets the oldest that were ended before where there
// are too many. It reports whether it changed something.
func (r *authenticatorRecord) revoke(id string, now time.Time) bool {
	d := r.device(id)
	if d == nil || !d.Revoked.IsZero() {
		return false
	}
	d.Revoked = now
	var stones []time.Time
	for _, d := range r.Devices {
		if !d.Revoked.IsZero() {
			stones = append(stones, d.Revoked)
		}
	}
	if len(stones) > maxDeviceStones {
		slices.SortFunc(stones, time.Time.Compare)
		oldest := stones[0]
		i := slices.IndexFunc(r.Devices, func(d deviceRecord) bool { return d.Revoked.Equal(oldest) && d.ID != id })
		if i >= 0 {
			r.Devices = slices.Delete(r.Devices, i, i+1)
		}
	}
	return true
}

func (b *backend) deviceDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	defer b.lockAuthenticator(name)()
	name, id, r, _, err := b.devicePath(ctx, data)
	if err != nil {
		return nil, err
	}
	if r.device(id) == nil {
		return nil, noDevice(name, id)
	}
	if !r.revoke(id, b.utcSeconds()) {
		return nil, nil // done before
	}
	r.Version = recordVersion
	if err := b.store.put(ctx, prefixAuthentic+name, r); err != nil {
		return nil, err
	}
	b.log.Info("a device was revoked", "authenticator", name, "device", id)
	return nil, nil
}
