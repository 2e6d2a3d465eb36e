package backend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// maxPIN bounds the PIN in bytes; CK_TOKEN_INFO says what a token takes.
const maxPIN = 255

func (b *backend) pathConfigHSM() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"uri":                field(framework.TypeString, "The token as it was configured."),
		"module":             field(framework.TypeString, "Name of the PKCS#11 module in the host's list."),
		"token_label":        field(framework.TypeString, "Label of the token, from the token itself."),
		"token_serial":       field(framework.TypeString, "Serial number of the token; it selects the token from now on."),
		"token_model":        field(framework.TypeString, "Model of the token."),
		"token_manufacturer": field(framework.TypeString, "Manufacturer of the token."),
		"suite":              field(framework.TypeString, "How keys are sealed to wrapping keys made from now on; what is sealed says for itself how."),
		"wrapping_version":   field(framework.TypeInt, "Version of the wrapping key that new shares are sealed to."),
		"pin_set":            field(framework.TypeBool, "Whether a PIN is stored; it is never returned."),
		"pin_source":         field(framework.TypeString, "Where nodes get the PIN: vault (stored here) or host (a file that the module list of each node's host names)."),
		"pin_refused":        field(framework.TypeString, "Set while the token has refused the PIN: no node tries it again before this configuration is written anew."),
	}
	write := b.handle("config/hsm", 0, b.configHSMWrite)
	return []*framework.Path{{
		Pattern: "config/hsm$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "hsm-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"uri": {
				Type:         framework.TypeString,
				Description:  "Token and module as an RFC 7512 URI: pkcs11:token=LABEL;serial=NUMBER?module-name=NAME. One of token and serial is enough. Modules are named in the plugin's environment.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "PKCS#11 URI", Value: "pkcs11:token=prod?module-name=softhsm"},
			},
			"pin": {
				Type:         framework.TypeString,
				Description:  "User PIN of the token. Stored, never returned. May be left out when only the URI changes. Not taken for a module whose PIN the nodes' host provides (pin-file in its list).",
				DisplayAttrs: &framework.DisplayAttributes{Name: "PIN", Sensitive: true},
			},
			"suite": {
				Type:         framework.TypeString,
				Description:  "How keys are sealed to the token: hpke-p256, rsa3072-oaep-sha256, or auto, which tries them in this order when the first wrapping key is made and keeps what the token really does. A change holds for wrapping keys made later.",
				Default:      suiteAuto,
				DisplayAttrs: &framework.DisplayAttributes{Name: "Sealing suite"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			// Not read: the handler says in words what is wrong with a record,
			// an existence check only "internal error".
			entry, err := b.store.s.Get(ctx, keyHSM)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure the token.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure the token.", true, write, answer),
			logical.ReadOperation:   b.operation("Read the token's configuration without the PIN.", false, b.handle("config/hsm", 0, b.configHSMRead), answer),
		},
		HelpSynopsis: "The PKCS#11 token whose key wraps every share.",
		HelpDescription: `
Names the token and gives nodes its PIN:

  $ vault write mpc/config/hsm uri="pkcs11:token=prod?module-name=softhsm" pin=@pin-file

A fresh process logs in to the token for real before anything is stored. A
wrong PIN is refused at once and not tried again. If the token refuses the
stored PIN later, that is remembered over restarts, and no node tries it before
this path is written again. The first write makes the wrapping key, which cannot
leave the token. Later writes may change the PIN or the module of the same
token, without restart.

Module names come from MPC_PKCS11_MODULES=name=/path,… in the plugin's
environment (vault plugin register -env=…). The API takes no paths, since a
module is code that runs on Vault's host. An entry may go on with
;pin-file=/path: then nodes read the PIN from that file of their host, and Vault
stores none.
`,
	}}
}

func (b *backend) configHSMRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.hsmConfig(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, nil // Vault answers 404
	}
	return b.hsmAnswer(ctx, r)
}

func (b *backend) hsmAnswer(ctx context.Context, r *hsmRecord) (*logical.Response, error) {
	keys, _, err := b.store.wrappingKeys(ctx, r.Token.Serial)
	if err != nil {
		return nil, err
	}
	var version uint32
	if len(keys) > 0 {
		version = keys[len(keys)-1].Version
	}
	refused := ""
	if why, err := b.store.pinRefusal(ctx, r); err != nil {
		return nil, err
	} else if why != nil {
		refused = why.Reason + " (" + rfc3339(why.Time) + ")"
	}
	return &logical.Response{Data: map[string]any{
		"uri":                r.URI,
		"module":             r.Module,
		"token_label":        r.Token.Label,
		"token_serial":       r.Token.Serial,
		"token_model":        r.Token.Model,
		"token_manufacturer": r.Token.Manufacturer,
		"suite":              r.Suite,
		"wrapping_version":   int(version),
		"pin_set":            r.PIN != "",
		"pin_source":         r.PINSource,
		"pin_refused":        refused,
	}}, nil
}

// configHSMWrite tries the settings out, stores them in an order in which a
// crash strands nothing (mount identity, wrapping key, and last the
// configuration that refers to both), and applies them.
func (b *backend) configHSMWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if b.cfg.NoLocalNodes != "" {
		return nil, b.noLocalNodes()
	}
	release, err := b.busy.reserve(keyHSM, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	old, err := b.store.hsmConfig(ctx)
	if err != nil {
		return nil, err
	}
	next, err := b.nextHSM(data, old)
	if err != nil {
		return nil, err
	}
	mount, mountIsNew, err := b.mountOrNew(ctx)
	if err != nil {
		return nil, err
	}
	info, create, joins, err := b.tryToken(ctx, mount, next)
	if err != nil {
		return nil, err
	}
	next.Token = tokenRecord{Label: info.Label, Serial: info.Serial, Manufacturer: info.Manufacturer, Model: info.Model}
	next.Updated = b.cfg.now().UTC()

	if mountIsNew {
		if err := b.store.put(ctx, keyMount, mount); err != nil {
			return nil, err
		}
	}
	if create > 0 {
		// Only now, so that the key's label names a mount that exists.
		key, err := b.makeKey(ctx, mount, next, create)
		if err != nil {
			return nil, err
		}
		r := joins
		if r == nil {
			r = &wrappingRecord{KeyVersion: key.Version, Created: next.Updated, State: stateLive}
		}
		r = r.with(domainKeyRecord{Domain: key.Domain, TokenSerial: info.Serial, Suite: key.Suite.String(),
			ID: key.ID, PublicKey: key.PublicKey, Label: key.Label})
		if err := b.store.put(ctx, wrappingKey(key.Version), r); err != nil {
			return nil, err
		}
		if next.Suite == suiteAuto {
			next.Suite = key.Suite.String() // settled: later keys are of this suite or fail
		}
	}
	if next.Suite == suiteAuto {
		keys, _, err := b.store.wrappingKeys(ctx, info.Serial)
		if err != nil {
			return nil, err
		}
		newest := newestOf(keys, hsm.DefaultDomain)
		if newest == nil {
			return nil, errors.New("the token has a wrapping key and storage lost it: nothing was changed, restore storage from a backup")
		}
		next.Suite = newest.Suite.String()
	}
	err = b.store.put(ctx, keyHSM, next)
	b.settingsChanged() // also after an error: the write may have happened
	if err != nil {
		return nil, err
	}
	if _, err := b.applySettings(ctx); err != nil {
		return nil, fmt.Errorf("the token's configuration is stored, but nodes were not started: %w", err)
	}
	resp, err := b.hsmAnswer(ctx, next)
	if err != nil {
		return nil, err
	}
	return resp, b.warnOfSuite(ctx, next, resp)
}

// warnOfSuite says where the suite that was chosen is not the one in use.
func (b *backend) warnOfSuite(ctx context.Context, next *hsmRecord, resp *logical.Response) error {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return err
	}
	if newest := ring.newest(); newest != nil && newest.Suite != "" && newest.Suite != next.Suite {
		resp.AddWarning(fmt.Sprintf("suite %s holds for wrapping keys that are made from now on, and version %d, which is in use, has %s: make a new version with wrapping-keys/rotate", next.Suite, newest.KeyVersion, newest.Suite))
	}
	return nil
}

// nextHSM validates the fields over what is stored. Token facts are missing
// until the token was tried.
func (b *backend) nextHSM(data *framework.FieldData, old *hsmRecord) (*hsmRecord, error) {
	next := &hsmRecord{Version: recordVersion, Suite: suiteAuto}
	if old != nil {
		next.URI, next.PIN, next.Suite = old.URI, old.PIN, old.Suite
	}
	if v, ok := data.GetOk("uri"); ok {
		next.URI = v.(string)
	}
	givenPIN := false
	if v, ok := data.GetOk("pin"); ok {
		next.PIN, givenPIN = v.(string), true
	}
	if v, ok := data.GetOk("suite"); ok {
		next.Suite = v.(string)
	}
	if next.URI == "" {
		return nil, invalid("uri is missing: for example uri=\"pkcs11:token=prod?module-name=softhsm\"")
	}
	uri, err := parseTokenURI(next.URI)
	if err != nil {
		return nil, invalid("%v", err)
	}
	list, err := modules.Parse(b.cfg.Modules)
	if err != nil {
		return nil, invalid("the host's module list is broken: %v; correct the plugin's environment and reload the plugin", err)
	}
	module, ok := list[uri.Module]
	if !ok {
		return nil, invalid("module %q is not on this host's list (%s): register the plugin with -env=%s=NAME=/path/to/module.so, or use a name on the list",
			clip(uri.Module), list.Names(), modules.Variable)
	}
	if err := next.choosePIN(module, givenPIN); err != nil {
		return nil, err
	}
	if err := checkSuite(next.Suite, module); err != nil {
		return nil, err
	}
	next.Module = uri.Module
	// For the probe: what the URI asks for.
	next.Token = tokenRecord{Label: uri.Label, Serial: uri.Serial}
	return next, nil
}

// choosePIN settles where the PIN comes from.
func (r *hsmRecord) choosePIN(module modules.Module, given bool) error {
	if module.PINFile != "" {
		if given {
			return invalid("pin is not taken for module %s: the nodes' host provides it (pin-file in %s), so that Vault does not store it; leave pin out, or take pin-file off the list", module.Name, modules.Variable)
		}
		r.PIN, r.PINSource = "", pinFromHost
		return nil
	}
	if r.PIN == "" || len(r.PIN) > maxPIN {
		return invalid("pin is missing or longer than %d bytes: send the token's user PIN, with the vault command from a file as pin=@FILE", maxPIN)
	}
	r.PINSource = pinFromVault
	return nil
}

// suiteAuto stands for the first suite that the token really does, until the
// first wrapping key has settled which that is.
const suiteAuto = "auto"

func checkSuite(name string, module modules.Module) error {
	if name == suiteAuto {
		return nil
	}
	suite, err := hsm.ParseSuite(name)
	if err != nil {
		return invalid("suite: %v, or auto", err)
	}
	if suite == hsm.SuiteRSA3072OAEPSHA1 && !module.AllowSHA1 {
		return invalid("suite: %s is for tests with tokens that lack SHA-256 in OAEP: use %s, or auto. (A test host allows it with oaep-sha1=for-tests in its module list.)", suite, hsm.SuiteHPKEP256)
	}
	return nil
}

// suites lists what a new wrapping key may be, in order of preference. auto
// never means the one that is for tests.
func (r *hsmRecord) suites() ([]hsm.Suite, error) {
	if r.Suite == suiteAuto {
		return []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256}, nil
	}
	suite, err := hsm.ParseSuite(r.Suite)
	if err != nil {
		return nil, err
	}
	return []hsm.Suite{suite}, nil
}

// mountOrNew returns the stored mount record, or a new one that is not stored.
func (b *backend) mountOrNew(ctx context.Context) (*mountRecord, bool, error) {
	m, err := b.store.mount(ctx)
	if err != nil || m != nil {
		return m, false, err
	}
	m = &mountRecord{Version: recordVersion, Created: b.cfg.now().UTC()}
	rand.Read(m.ID[:])
	m.IDHex = hex.EncodeToString(m.ID[:])
	return m, true, nil
}

// tryToken logs in to the token and says which version of the wrapping key is
// to be made in it: 0 when this mount has one there. joins, where not nil, is that
// version, which other wrapping domains have already.
func (b *backend) tryToken(ctx context.Context, mount *mountRecord, next *hsmRecord) (info pool.TokenInfo, version uint32, joins *wrappingRecord, err error) {
	known, err := b.store.wrappingRecords(ctx)
	if err != nil {
		return pool.TokenInfo{}, 0, nil, err
	}
	info, _, err = b.probe(ctx, mount.ID, next.poolToken(), pool.KeyRequest{})
	switch {
	case err != nil:
		return info, 0, nil, &probeError{fmt.Errorf("nothing was stored: %w", err)}
	case info.Serial == "":
		return info, 0, nil, invalid("the token has no serial number, by which it is found again: nothing was stored; use another token")
	case len(known) == 0:
		return info, 1, nil, nil
	}
	// Versions that are destroyed, or are being, serve nobody; their numbers
	// are not used again.
	version = b.keeper.highest(known[len(known)-1].KeyVersion) + 1
	known = slices.DeleteFunc(known, func(k wrappingRecord) bool {
		return k.State == stateDestroying || k.State == stateDestroyed
	})
	old, elsewhere := "", false
	for _, k := range known {
		switch {
		case len(k.ID) == 0: // in other domains only
		case k.TokenSerial == info.Serial:
			return info, 0, nil, nil
		default:
			old, elsewhere = k.TokenSerial, true
		}
	}
	if elsewhere {
		if err := b.refuseTokenChange(ctx, old, info); err != nil {
			return info, 0, nil, err
		}
	} else if len(known) > 0 {
		newest := known[len(known)-1]
		return info, newest.KeyVersion, &newest, nil
	}
	// Nothing depends on the other token: begin anew in this one.
	return info, version, nil, nil
}

// makeKey makes a version of the wrapping key in the token that next names.
func (b *backend) makeKey(ctx context.Context, mount *mountRecord, next *hsmRecord, version uint32) (*hsm.WrappingKey, error) {
	suites, err := next.suites()
	if err != nil {
		return nil, err
	}
	_, key, err := b.probe(ctx, mount.ID, next.poolToken(), pool.KeyRequest{Version: version, Suites: suites})
	if err == nil && (key == nil || key.Version != version) {
		err = errors.New("the token was asked for a wrapping key and none came back")
	}
	if err != nil {
		return nil, &probeError{fmt.Errorf("the configuration was not stored, because no wrapping key could be made; if the HSM was interrupted, an unused key labelled with the mount ID %s may be left in it: %w", mount.IDHex, err)}
	}
	return key, nil
}

// probe calls the engine's Probe and wipes the PIN.
func (b *backend) probe(ctx context.Context, mountID [16]byte, token pool.Token, create pool.KeyRequest) (pool.TokenInfo, *hsm.WrappingKey, error) {
	defer token.PIN.Wipe()
	eng, err := b.unconfiguredEngine()
	if err != nil {
		return pool.TokenInfo{}, nil, err
	}
	return eng.Probe(ctx, mountID, token, create)
}

// refuseTokenChange fails while anything is wrapped by the token in use.
func (b *backend) refuseTokenChange(ctx context.Context, serial string, info pool.TokenInfo) error {
	logins, err := b.store.s.Get(ctx, keyIdentityKeys)
	if err != nil {
		return storageError(ctx, "reading", keyIdentityKeys, err)
	}
	for _, prefix := range []string{prefixAccounts, prefixNodeKeys} {
		keys, err := b.store.list(ctx, prefix)
		if err != nil {
			return err
		}
		if len(keys) > 0 || logins != nil {
			return invalid("keys of this mount are wrapped by the token with serial number %s and cannot be read with token %s: keep that token, or enable the engine on another path for the new one",
				serial, info.Serial)
		}
	}
	return nil
}
