package backend

import "context"

// Names of the moments between two storage or engine steps of an operation, in
// the order in which an operation passes them. Config.step is called there: an
// error ends the operation as a crash would, with everything before done and
// nothing after.
const (
	stepCreateMade   = "create: nodes have made the key"
	stepCreateStored = "create: the account is stored"

	stepSignMade   = "sign: nodes have signed a request that has a request_id"
	stepSignStored = "sign: the answer is stored"

	stepCustodyOffered = "custody: nodes have made their keys for the owner's release"

	stepRequestOpening = "request: it is about to be stored"
	stepRequestOpened  = "request: it is stored"
	stepRequestQuorum  = "request: that it is approved is about to be stored"
	stepRequestDoing   = "request: what was approved is about to be done"
	stepRequestDone    = "request: what was approved is done"
	stepRequestStored  = "request: what became of it is stored"
	stepRequestHolding = "request: that it is held is about to be stored"
	stepRequestHeld    = "request: that it is held is stored"

	stepRefreshMade    = "refresh: nodes have made the next shares"
	stepRefreshChecked = "refresh: the next shares have been opened"
	stepRefreshStored  = "refresh: the next shares are stored"

	stepMoveSealed = "move: the shares are sealed to their new homes"

	stepEnrolPrepared = "enrol: what the node will pin is stored"
	stepEnrolPinned   = "enrol: the node has pinned this mount"
	stepEnrolStored   = "enrol: the node is stored"

	stepRewrapMade   = "rewrap: nodes have resealed the shares"
	stepRewrapStored = "rewrap: the resealed shares are stored beside the old"

	stepSettleChecked = "settle: the current shares have been opened"
	stepSettleDropped = "settle: the previous shares are dropped"
	stepSettleBack    = "settle: the account is about to go back"
	stepSettleWent    = "settle: the account has gone back"

	stepRenameMarked  = "rename: the old name is marked"
	stepRenameArrived = "rename: the account is stored under the new name"
	stepRenameRemoved = "rename: the old name is removed"
	stepRenameDone    = "rename: the mark is removed"

	stepRemoveAccount   = "remove: the account is removed"
	stepRemoveExposures = "remove: its exposures are removed"

	stepIdentityAsset   = "identity: one of its assets is removed"
	stepIdentityRemoved = "identity: it is removed"

	stepAuthenticatorUnlocked = "authenticator: what is stored about failures is removed"

	stepRotateDomain  = "rotate: the new wrapping key of one domain is in its token, and another's is not"
	stepRotateMade    = "rotate: the new wrapping key is in the token"
	stepRotateStored  = "rotate: the new wrapping key is stored"
	stepRotateRetired = "rotate: the old wrapping keys are retired"
	stepRotateApplied = "rotate: nodes have been told"

	stepJoinMade    = "join: the wrapping key of a domain is in its token"
	stepJoinStored  = "join: the wrapping key of a domain is stored"
	stepJoinApplied = "join: nodes have been told"

	stepNodeKeysRewrapped = "node keys: one node's keys are resealed"

	stepIdentityKeysMade      = "identity keys: a node has made them"
	stepIdentityKeysStored    = "identity keys: they are stored"
	stepIdentityKeysRewrapped = "identity keys: a node has resealed them"
	stepIdentityKeysResealed  = "identity keys: they are stored as they were resealed"

	stepDestroyScanned  = "destroy: nothing refers to the wrapping key"
	stepDestroyMarked   = "destroy: the wrapping key is marked"
	stepDestroyApplied  = "destroy: nodes have forgotten the wrapping key"
	stepDestroyGone     = "destroy: the wrapping key has left the token"
	stepDestroyRecorded = "destroy: that is stored"

	stepEndMarked       = "end: every wrapping key is marked"
	stepEndNodeKeys     = "end: the nodes' keys are removed"
	stepEndIdentityKeys = "end: the identity keys are removed"
	stepEndGone         = "end: every wrapping key has left the token"
	stepEndRemoved      = "end: the token's configuration is removed"
)

// step is a place at which a test may stop an operation.
func (b *backend) step(ctx context.Context, name string) error {
	if b.cfg.step == nil {
		return nil
	}
	return b.cfg.step(ctx, name)
}
