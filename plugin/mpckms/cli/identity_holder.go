package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// session is what commands need of somebody who has logged in.
type session interface {
	keyholder.Caller
	// OpenIdentity reads the newest state of an identity, compares it with what
	// this home has seen of it, and opens it.
	OpenIdentity(ctx context.Context, name string) (*identity.Opened, error)
}

// memory is what a home remembers of identities and assets, so that a server
// cannot go back to older ones.
type memory interface {
	keyholder.Pins
	keyholder.AssetPins
}

// holder is an identity in the hands of somebody who is logged in. It is used by
// one goroutine.
type holder struct {
	session
	name   string
	opened *identity.Opened
	memory memory
	home   *keyholder.Home // nil in tests
	now    func() time.Time
	left   bool // the own grant was taken away: the identity opens no more
}

// hold opens the identity; the caller closes it.
func hold(ctx context.Context, s session, memory memory, name string) (*holder, error) {
	h := &holder{session: s, name: name, memory: memory, now: time.Now}
	return h, h.reload(ctx)
}

func (h *holder) close() { h.opened.Wipe() }

// reload opens the identity as it is now.
func (h *holder) reload(ctx context.Context) error {
	o, err := h.OpenIdentity(ctx, h.name)
	if err != nil {
		return refusedBy("open identity "+quote(h.name), err)
	}
	if h.opened != nil {
		h.opened.Wipe()
	}
	h.opened = o
	return nil
}

// maxTries bounds how often a change is made anew because somebody else's came
// first.
const maxTries = 5

// change writes the identity with these changes, and opens what is then stored.
// force lets the server accept that a role opens for nobody any more.
func (h *holder) change(ctx context.Context, what string, force bool, changes ...identity.Change) error {
	return h.changeBy(ctx, what, force, func() ([]identity.Change, error) { return changes, nil })
}

// changeBy is change with what has to be changed of the identity as it is opened
// at that try; nothing is written where that is nothing.
func (h *holder) changeBy(ctx context.Context, what string, force bool, changes func() ([]identity.Change, error)) error {
	for try := 1; ; try++ {
		list, err := changes()
		if err != nil || len(list) == 0 {
			return err
		}
		signed, err := h.opened.Change(h.now(), list...)
		if err != nil {
			return notValid(what, h.showsRoles(), err)
		}
		err = keyholder.StoreManifest(ctx, h, h.memory, signed, force)
		if err == nil {
			return h.after(ctx, signed)
		}
		before := h.opened.Manifest.Generation
		if statusOf(err) != http.StatusConflict || try == maxTries {
			return refusedBy(what, err)
		}
		// A conflict: of generations, where another's change came first, or for a
		// reason that stays.
		if err := h.reload(ctx); err != nil {
			return err
		}
		if h.opened.Manifest.Generation == before {
			return refusedBy(what, err)
		}
	}
}

// after opens what is stored now. Who has given the own grant away reads it no more
// from the server, which is no failure of the change: then it is what was written.
func (h *holder) after(ctx context.Context, signed *identity.SignedManifest) error {
	m, err := signed.Verify()
	if err != nil {
		return refusedBy("read identity "+quote(h.name)+" after it was changed", err)
	}
	if m.Grant(h.opened.Authenticator) != nil {
		return h.reload(ctx)
	}
	h.opened.Manifest, h.opened.Signed, h.left = m, signed, true
	return nil
}

// notValid says what is wrong with a change. The records that it is made to have
// verified: what would not be valid is what was asked for.
func notValid(what, advice string, err error) error {
	if !errors.Is(err, identity.ErrRecord) {
		return refusedBy(what, err)
	}
	reason := strings.Replace(err.Error(), identity.ErrRecord.Error()+": ", "", 1)
	return &refusal{what: "cannot " + what, cause: errors.New(reason), advice: advice}
}

func (h *holder) showsRoles() string {
	return "Nothing was changed. 'mpckms identity show " + h.name + "' lists its roles, its levels and who has which."
}

// manifestBody is the request that stores a manifest.
func manifestBody(s *identity.SignedManifest, force bool) map[string]any {
	body := map[string]any{
		"manifest":  base64.StdEncoding.EncodeToString(s.Manifest),
		"signature": base64.StdEncoding.EncodeToString(s.Signature),
	}
	if force {
		body["force"] = true
	}
	return body
}

// assetNames lists the identity's assets.
func (h *holder) assetNames(ctx context.Context) ([]string, error) {
	var l listing
	err := h.Call(ctx, keyholder.List, "identities/"+h.name+"/assets", nil, &l)
	if err != nil && statusOf(err) != http.StatusNotFound {
		return nil, refusedBy("list the assets of identity "+quote(h.name), err)
	}
	for _, name := range l.Keys {
		if err := identity.CheckName("asset", name); err != nil {
			return nil, refusedBy("list the assets of identity "+quote(h.name), err)
		}
	}
	slices.Sort(l.Keys)
	return slices.Compact(l.Keys), nil
}

// errNoAsset: the server says that there is none of that name.
var errNoAsset = errors.New("there is no such asset")

// asset reads an asset and verifies it: signed by a role of this identity that
// may, of the name that was asked for, and not older than what was seen before.
func (h *holder) asset(ctx context.Context, name string) (*identity.Asset, *identity.SignedAsset, error) {
	what := "read asset " + quote(h.name+"/"+name)
	a, signed, err := keyholder.FetchAsset(ctx, h, h.opened, name, h.memory)
	if statusOf(err) == http.StatusNotFound {
		err = errNoAsset
	}
	if err != nil {
		return nil, nil, refusedBy(what, err)
	}
	return a, signed, nil
}

// write stores the next generation of an asset, as change makes it.
func (h *holder) write(ctx context.Context, a *identity.Asset, change func(*identity.Asset) error) error {
	signed, err := h.opened.WriteAsset(a, h.now(), change)
	if err != nil {
		return notValid("write asset "+quote(h.name+"/"+a.Name), h.showsRoles(), err)
	}
	return h.store(ctx, a.Name, signed)
}

func (h *holder) store(ctx context.Context, name string, signed *identity.SignedAsset) error {
	return refusedBy("write asset "+quote(h.name+"/"+name), keyholder.StoreAsset(ctx, h, h.opened, signed, h.memory))
}

func (h *holder) assetPath(name string) string { return "identities/" + h.name + "/assets/" + name }

func quote(s string) string { return fmt.Sprintf("%q", s) }

// statusOf is the HTTP status of a refusal of the server, or 0.
func statusOf(err error) int {
	var r *keyholder.Refusal
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}

// refusedBy makes an error of a session, or of package identity, one that mpckms
// reports: what cannot be done, why, and what to do.
// No error stays none.
func refusedBy(what string, err error) error {
	if err == nil {
		return nil
	}
	var mine *refusal
	if errors.As(err, &mine) {
		return err
	}
	out := &refusal{what: "cannot " + what}
	var r *keyholder.Refusal
	if errors.As(err, &r) && r.Status != 0 {
		out.status, out.messages = r.Status, r.Messages
	} else {
		out.cause = err
	}
	out.advice = recordAdvice(err)
	return out
}

// recordAdvice says what to do where a record cannot be right.
func recordAdvice(err error) string {
	switch {
	case errors.Is(err, identity.ErrRolledBack):
		return "Nothing was opened or sent. Either Vault was restored from a backup, or somebody shows you an old state on\n" +
			"purpose, for example one in which a lost authenticator is still granted. Ask who runs Vault before you go on; if the server is\n" +
			"right, 'mpckms identity forget' or 'mpckms secret forget' has this home believe it."
	case errors.Is(err, identity.ErrSignature), errors.Is(err, identity.ErrOpen), errors.Is(err, identity.ErrRecord):
		return "Nothing was opened or sent. The record that the server shows is not what the identity's owner or the asset's\n" +
			"writer signed. Tell who runs Vault; a backup of its storage may hold the right one."
	case errors.Is(err, identity.ErrInUse):
		return "Nothing was changed. Who or what uses it has to get another one first."
	case errors.Is(err, identity.ErrUnopened):
		return "Nothing was changed. Grant another authenticator a level with that role first."
	case statusOf(err) == http.StatusForbidden:
		return "'mpckms login' shows what your authenticator opens; --authenticator chooses another one."
	}
	return ""
}
