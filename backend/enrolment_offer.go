package backend

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Bounds of what a device sends, in bytes once decoded.
const (
	maxOfferedPublic      = 1024 // SubjectPublicKeyInfo; RSA-4096 has 550
	maxOfferedSignature   = 1024
	maxAttestationObject  = 16 << 10
	maxRegistrationClient = 2048
	maxTransports         = 8
)

// offer is what a device sends of its keys. What is read is well-formed, and not
// verified.
type offer struct {
	device      offeredKey
	certificate *offeredKey
	passkey     *offeredPasskey
}

// offeredKey is a device's or a certificate's.
type offeredKey struct {
	kind              approval.Kind
	name              string
	public, signature []byte
}

func (k *offeredKey) key() *approval.Key {
	return &approval.Key{Kind: k.kind, Name: k.name, Public: k.public}
}

type offeredPasskey struct {
	name                    string
	attestation, clientData []byte
	transports              []string
}

// readOffer reads the objects that a device sends.
func readOffer(data *framework.FieldData) (*offer, error) {
	objects := map[string]map[string]any{}
	for _, what := range []string{"device", "passkey", "certificate"} {
		if v, ok := data.GetOk(what); ok {
			if m, ok := v.(map[string]any); ok && len(m) > 0 {
				objects[what] = m
			}
		}
	}
	return parseOffer(objects["device"], objects["passkey"], objects["certificate"])
}

// parseOffer takes an object of length 0 for none.
func parseOffer(device, passkey, certificate map[string]any) (*offer, error) {
	if len(device) == 0 {
		return nil, invalid("device is missing: name, public and signature of the device's key")
	}
	d, err := parseOfferedKey("device", approval.Device, device)
	if err != nil {
		return nil, err
	}
	out := &offer{device: *d}
	if len(certificate) > 0 {
		if out.certificate, err = parseOfferedKey("certificate", approval.Certificate, certificate); err != nil {
			return nil, err
		}
	}
	if len(passkey) > 0 {
		if out.passkey, err = parseOfferedPasskey(passkey); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseOfferedKey(what string, kind approval.Kind, m map[string]any) (*offeredKey, error) {
	if err := onlyMembers(what, m, "name", "public", "signature"); err != nil {
		return nil, err
	}
	k := &offeredKey{kind: kind}
	var err error
	if k.name, err = memberName(what, m); err != nil {
		return nil, err
	}
	if k.public, err = memberBytes(what, "public", m, maxOfferedPublic); err != nil {
		return nil, err
	}
	if k.signature, err = memberBytes(what, "signature", m, maxOfferedSignature); err != nil {
		return nil, err
	}
	return k, nil
}

func parseOfferedPasskey(m map[string]any) (*offeredPasskey, error) {
	const what = "passkey"
	if err := onlyMembers(what, m, "name", "attestation_object", "client_data_json", "transports"); err != nil {
		return nil, err
	}
	p := &offeredPasskey{}
	var err error
	if p.name, err = memberName(what, m); err != nil {
		return nil, err
	}
	if p.attestation, err = memberBytes(what, "attestation_object", m, maxAttestationObject); err != nil {
		return nil, err
	}
	if p.clientData, err = memberBytes(what, "client_data_json", m, maxRegistrationClient); err != nil {
		return nil, err
	}
	p.transports, err = memberTransports(m)
	return p, err
}

// memberTransports reads hints for browsers (AuthenticatorTransport, WebAuthn Level
// 3, section 5.8.4). Those that this program does not know are kept, as browsers do.
func memberTransports(m map[string]any) ([]string, error) {
	v, ok := m["transports"]
	if !ok || v == nil {
		return nil, nil
	}
	var list []any
	switch v := v.(type) {
	case []any:
		list = v
	case []string:
		for _, s := range v {
			list = append(list, s)
		}
	default:
		return nil, invalid("transports of passkey must be a list of texts")
	}
	if len(list) > maxTransports {
		return nil, invalid("transports of passkey has more than %d texts", maxTransports)
	}
	var out []string
	for _, item := range list {
		s, ok := item.(string)
		if !ok || s == "" || len(s) > 32 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return nil, invalid("transports of passkey must be texts such as internal, hybrid or usb")
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// onlyMembers fails for what an object does not have. Its errors do not repeat
// values.
func onlyMembers(what string, m map[string]any, known ...string) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(known, name) {
			return invalid("%s has an unknown field %q: its fields are %s", what, clip(name), strings.Join(known, ", "))
		}
	}
	return nil
}

// memberName is what the device calls a key; empty where it does not say.
func memberName(what string, m map[string]any) (string, error) {
	v, ok := m["name"]
	if !ok || v == nil {
		return "", nil
	}
	name, ok := v.(string)
	if !ok {
		return "", invalid("name of %s must be a text", what)
	}
	name = strings.TrimSpace(name)
	return name, checkLabelText("name of "+what, name)
}

func memberBytes(what, member string, m map[string]any, most int) ([]byte, error) {
	text, ok := m[member].(string)
	if !ok || text == "" {
		return nil, invalid("%s of %s is missing: it is base64", member, what)
	}
	raw, err := anyBase64(text, most)
	if err != nil {
		return nil, invalid("%s of %s must be 1 to %d bytes in base64", member, what, most)
	}
	return raw, nil
}

// anyBase64 reads base64 of 1 to most bytes in either alphabet, padded or not:
// browsers have one, command lines the other.
func anyBase64(text string, most int) ([]byte, error) {
	if len(text) > base64.StdEncoding.EncodedLen(most) {
		return nil, errOutOfBounds
	}
	text = strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(text), "=")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) == 0 || len(raw) > most || strings.ContainsAny(text, "\r\n") {
		return nil, errOutOfBounds
	}
	return raw, nil
}

// verify checks that the device has every key that it offers, and returns them as
// records; the device's own is the first.
func (o *offer) verify(mount [16]byte, u *uiRecord, r *enrolmentRecord) ([]approverKeyRecord, error) {
	enrolment, approver, err := r.ids()
	if err != nil {
		return nil, err
	}
	device := orNamed(o.device.key(), r.Label)
	offered := []approval.Key{*device}
	var transports []string
	if o.passkey != nil {
		key, err := o.passkey.register(u, r.Challenge)
		if err != nil {
			return nil, err
		}
		offered = append(offered, *orNamed(key, device.Name))
		transports = o.passkey.transports
	}
	if o.certificate != nil {
		offered = append(offered, *orNamed(o.certificate.key(), device.Name))
	}
	for i := range offered {
		if err := offered[i].Check(); err != nil {
			return nil, invalid("%s: %v", offered[i].Kind, err)
		}
		for j := range i {
			if slices.Equal(offered[i].Public, offered[j].Public) {
				return nil, invalid("%s and %s have the same key: no key counts for two factors. Nothing was changed", offered[j].Kind, offered[i].Kind)
			}
		}
	}
	message := approval.EnrolMessage(mount, enrolment, approver, offered)
	if !device.VerifyEnrol(message, o.device.signature) {
		return nil, forbidden("the signature of the device's key is not over this enrolment and these keys: nothing was changed")
	}
	if o.certificate != nil && !offered[len(offered)-1].VerifyEnrol(message, o.certificate.signature) {
		return nil, forbidden("the signature of the certificate's key is not over this enrolment and these keys: nothing was changed")
	}
	out := make([]approverKeyRecord, len(offered))
	for i, k := range offered {
		out[i] = approverKeyRecord{
			Kind: k.Kind, Name: k.Name, Public: k.Public, RPID: k.RPID, Origins: k.Origins, Credential: k.Credential,
			Device: device.ID().String(),
		}
		if k.Kind == approval.Passkey {
			out[i].Transports = transports
		}
	}
	return out, nil
}

// orNamed gives a key that has no name another one. The name is no part of the key's
// ID, and so of nothing that is signed.
func orNamed(k *approval.Key, name string) *approval.Key {
	if k.Name == "" {
		k.Name = name
	}
	if k.Name == "" {
		k.Name = string(k.Kind)
	}
	return k
}
