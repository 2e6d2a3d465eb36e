package backend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// Defaults of a new account.
const (
	defaultThreshold = 2
	defaultShares    = 3
)

// accountCreate makes a key on the nodes and then stores it by one Put. Until
// that Put there is nothing, so a failure or a crash leaves nothing behind.
func (b *backend) accountCreate(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	if name == wrappingKeysName {
		return nil, invalid("no account can be called %q, since destroy/%s ends a mount: choose another name", name, name)
	}
	if from := b.moves.into(name); from != "" { // that account comes first
		return nil, &movingError{from, name}
	}
	request, err := b.createRequest(ctx, data)
	if err != nil {
		return nil, err
	}
	r := &accountRecord{Version: recordVersion, ID: request.AccountID.String()}
	if r.Custody, err = b.newCustody(ctx, data); err != nil {
		return nil, err
	}
	if err := takeSettings(r, request.Algorithm, data); err != nil {
		return nil, err
	}
	release, err := b.busy.reserve(prefixAccounts+name, "is being created")
	if err != nil {
		return nil, err
	}
	defer release()
	free := func() error {
		if old, err := b.store.account(ctx, name); err != nil {
			return err
		} else if old != nil {
			return taken(name, old)
		}
		return nil
	}
	if err := free(); err != nil {
		return nil, err
	}
	if c := r.Custody; c != nil {
		releaseAsset, err := b.busy.reserve("custody asset "+c.Asset, "is being tied to an account")
		if err != nil {
			return nil, err
		}
		defer releaseAsset()
		if err := b.custodyUnused(ctx, c); err != nil {
			return nil, err
		}
		request.Custody = c.PublicKey
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	lineage, err := b.spares.lineage(ctx)
	if err != nil {
		return nil, err
	}
	begun := b.fit.begin()
	res, err := eng.Create(ctx, *request)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepCreateMade); err != nil {
		return nil, err
	}
	r.Created = b.cfg.now().UTC()
	epoch, err := epochFrom(res, r.Created, lineage, request.Recipients, request.Policy)
	if err != nil {
		return nil, fmt.Errorf("no account was created: %w", err)
	}
	if err := checkCreated(request, &res.Account.Record, r.Custody); err != nil {
		return nil, fmt.Errorf("no account was created: %w", err)
	}
	if err := sharesWithin(&res.Account, request.Domains); err != nil {
		return nil, fmt.Errorf("no account was created: %w", err)
	}
	r.Current = *epoch
	hash := res.Account.Record.Hash()
	r.Birth = birthRecord{RecordHash: hex.EncodeToString(hash[:]), Certificate: epoch.Certificate}
	err = b.underCustody(ctx, r.Custody, func() error {
		return b.place(ctx, begun, &res.Account, func() error { return b.putNewAccount(ctx, name, r, free) })
	})
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepCreateStored); err != nil {
		return nil, err
	}
	b.accountChanged(name, r)
	resp, err := b.settingsAnswer(ctx, name, r)
	if err != nil {
		return nil, err
	}
	if custodians, _, err := b.custodians(ctx, &res.Account.Record); err == nil && r.Custody != nil && len(custodians) > 0 {
		resp.AddWarning("recovery custodians cannot rebuild an account with user custody: keep backups of Vault's storage and of the token")
	}
	resp.Data["session_id"] = res.SessionID.String()
	return resp, b.warnOfPlacement(ctx, &res.Account, resp)
}

func (b *backend) putNewAccount(ctx context.Context, name string, r *accountRecord, free func() error) error {
	defer b.lockAccount(name)()
	if err := free(); err != nil {
		return err
	}
	return b.store.putAccount(ctx, name, r)
}

// createRequest validates what cannot be changed later.
func (b *backend) createRequest(ctx context.Context, data *framework.FieldData) (*pool.CreateRequest, error) {
	request := &pool.CreateRequest{
		Algorithm:      mpc.Algorithm(data.Get("algorithm").(string)),
		Threshold:      defaultThreshold,
		Shares:         defaultShares,
		RecipientsHash: mpc.EmptySetHash(),
		PolicyHash:     mpc.EmptySetHash(),
	}
	if !request.Algorithm.Valid() {
		return nil, invalid("algorithm %q is not one of %s", clip(string(request.Algorithm)), algorithmList())
	}
	if v, ok := data.GetOk("threshold"); ok {
		request.Threshold = v.(int)
	}
	if v, ok := data.GetOk("shares"); ok {
		request.Shares = v.(int)
	}
	switch {
	case request.Threshold < mpc.MinThreshold:
		return nil, invalid("threshold must be at least %d: with %d a single node would hold the key", mpc.MinThreshold, request.Threshold)
	case request.Threshold > request.Shares:
		return nil, invalid("threshold %d is more than the %d shares: lower threshold or raise shares", request.Threshold, request.Shares)
	case request.Shares > mpc.MaxShares:
		return nil, invalid("shares must be at most %d", mpc.MaxShares)
	}
	nodes, err := b.presentSites(ctx)
	if err != nil {
		return nil, err
	}
	if request.Domains, err = b.takeDomains(ctx, data); err != nil {
		return nil, err
	}
	if there := nodesOf(nodes, request.Domains); request.Shares > there {
		if len(request.Domains) > 0 {
			return nil, invalid("%d shares need as many nodes and domain(s) %s have %d: enrol more nodes there, name more domains, or use fewer shares", request.Shares, strings.Join(request.Domains, ", "), there)
		}
		return nil, invalid("%d shares need as many nodes and there are %d: vault write <mount>/config/nodes local=%d, enrol nodes of other hosts, or use fewer shares", request.Shares, there, min(maxLocalNodes, request.Shares))
	}
	if request.Recipients, request.RecipientsHash, err = b.setInForce(ctx); err != nil {
		return nil, err
	}
	if request.Recipients != nil {
		set, err := recovery.ParseSignedSet(request.Recipients)
		if err != nil {
			return nil, err
		}
		// A set without recipients is for what it says about domains.
		if n := len(set.Unverified().Recipients); n > 0 && request.Shares > n {
			return nil, invalid("%d shares need as many recovery recipients and the set in force has %d: use fewer shares, or sign a set with more recipients (config/recovery)", request.Shares, n)
		}
	}
	remote, err := b.hasRemoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	policy, err := b.policyFrom(ctx, data, remote)
	if err != nil {
		return nil, err
	}
	if policy != nil {
		request.Policy, request.PolicyHash = policy.Marshal(), policy.Hash()
	}
	rand.Read(request.AccountID[:])
	return request, nil
}

func checkCreated(request *pool.CreateRequest, got *mpc.PublicRecord, c *custodyRecord) error {
	if got.AccountID != request.AccountID || got.Algorithm != request.Algorithm ||
		got.Threshold != request.Threshold || got.Shares != request.Shares ||
		got.RecipientsHash != request.RecipientsHash || got.PolicyHash != request.PolicyHash || got.Epoch != 1 || got.Custody != c.hash() {
		return fmt.Errorf("nodes made another account than the one that was asked for")
	}
	return nil
}

// accountUpdate changes settings of an account that exists.
func (b *backend) accountUpdate(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, fewer, err := b.changeSettings(ctx, name, data)
	if err != nil {
		return nil, err
	}
	b.accountChanged(name, r)
	if fewer {
		var id mpc.AccountID
		if err := decodeHex(r.ID, id[:], "account ID"); err != nil {
			return nil, err
		}
		b.forgetPresignatures(ctx, id)
	}
	resp, err := b.settingsAnswer(ctx, name, r)
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"algorithm", "threshold", "shares"} {
		if _, sent := data.GetOk(field); sent {
			resp.AddWarning(fmt.Sprintf("account %q exists already: no key was made, and %s has no effect; presign, refresh_period and metadata were taken as far as they were sent", name, field))
			break
		}
	}
	return resp, nil
}

// settingsAnswer is accountAnswer with a word on settings that fit badly.
func (b *backend) settingsAnswer(ctx context.Context, name string, r *accountRecord) (*logical.Response, error) {
	resp, err := b.accountAnswer(ctx, name, r)
	if err != nil {
		return nil, err
	}
	if period := b.refreshPeriod(r); r.Presign > 0 && period < shortPresignPeriod {
		resp.AddWarning(fmt.Sprintf("presignatures are void after every refresh, and this account is refreshed every %v: the nodes spend seconds of processor time on each of them, mostly for nothing. Use a refresh_period of %v or more, or presign=0", period, shortPresignPeriod))
	}
	return resp, nil
}

// changeSettings reports also whether fewer presignatures are asked for than
// before.
func (b *backend) changeSettings(ctx context.Context, name string, data *framework.FieldData) (r *accountRecord, fewer bool, err error) {
	defer b.lockAccount(name)()
	if r, err = b.needAccount(ctx, name); err != nil {
		return nil, false, err
	}
	if r.Deleted != nil {
		return nil, false, conflict("account %q was deleted: nothing was changed; %s", name, wayBack(name, r.Deleted))
	}
	a, err := r.Current.account()
	if err != nil {
		return nil, false, err
	}
	for field, present := range map[string]any{
		"algorithm": string(a.Record.Algorithm),
		"threshold": a.Record.Threshold,
		"shares":    a.Record.Shares,
	} {
		if v, ok := data.GetOk(field); ok && v != present {
			return nil, false, invalid("account %q exists and its %s is %v, which cannot be changed: choose another name for a new account", name, field, present)
		}
	}
	if _, sent := data.GetOk("domains"); sent {
		return nil, false, invalid("account %q exists: its shares are moved with accounts/%s/move, which takes domains", name, name)
	}
	for field := range policyFields() {
		if _, sent := data.GetOk(field); sent {
			return nil, false, invalid("account %q exists: who approves its signatures is changed with accounts/%s/policy, which takes %s", name, name, field)
		}
	}
	for _, field := range []string{"custody_identity", "custody_asset"} {
		if _, sent := data.GetOk(field); sent {
			return nil, false, invalid("account %q exists, and whether it has user custody cannot be changed: leave %s out, or choose another name for a new account", name, field)
		}
	}
	before := r.Presign
	if err := takeSettings(r, a.Record.Algorithm, data); err != nil {
		return nil, false, err
	}
	return r, r.Presign < before, b.store.putAccount(ctx, name, r)
}

// takeSettings validates and sets what may be changed at any time.
func takeSettings(r *accountRecord, alg mpc.Algorithm, data *framework.FieldData) error {
	if _, ok := data.GetOk("delete_after"); ok {
		return invalid("delete_after goes with the deletion: vault delete <mount>/accounts/<name> delete_after=240h")
	}
	if v, ok := data.GetOk("presign"); ok {
		r.Presign = v.(int)
		switch {
		case r.Presign < 0 || r.Presign > maxPresign:
			return invalid("presign must be 0 to %d, not %d", maxPresign, r.Presign)
		case r.Presign > 0 && r.Custody != nil:
			return invalid("an account with user custody keeps no presignatures: nodes open its shares only when its owner takes part. Leave presign out")
		case r.Presign > 0 && !alg.IsECDSA():
			return invalid("presign is for ECDSA accounts, whose signatures take seconds without: %s signs fast by itself, leave presign out", alg)
		}
	}
	if v, ok := data.GetOk("refresh_period"); ok {
		seconds := int64(v.(int))
		if seconds != 0 || !isZero(data.Raw["refresh_period"]) {
			if err := checkRefreshPeriod(seconds); err != nil {
				return err
			}
		}
		r.RefreshPeriod = seconds
	}
	if v, ok := data.GetOk("metadata"); ok {
		pairs := v.(map[string]string)
		if len(pairs) > maxMetadata {
			return invalid("metadata has %d pairs, at most %d are kept", len(pairs), maxMetadata)
		}
		for k, v := range pairs {
			if k == "" || len(k) > maxMetadataKey || len(v) > maxMetadataValue {
				return invalid("metadata: keys have 1 to %d bytes, values up to %d", maxMetadataKey, maxMetadataValue)
			}
			if !printable(k) || !printable(v) {
				return invalid("metadata: keys and values are printable UTF-8")
			}
		}
		r.Metadata = pairs
	}
	return nil
}

// isZero tells 0 from a period below one second, which is rounded to 0.
func isZero(raw any) bool {
	switch fmt.Sprint(raw) {
	case "0", "0s", "":
		return true
	}
	return false
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if unicode.IsControl(c) {
			return false
		}
	}
	return true
}
