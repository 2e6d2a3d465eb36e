package backend

import (
	"errors"
	"reflect"
)

// Version 1, of the first release, knew neither presignatures, periods of
// auxiliary keys, limits of sessions nor restored storage. Version 2 knew one
// wrapping key that stayed, and one clock for shares. Version 3 knew active
// accounts only. Fields that a version
// lacks get their defaults; for the time at which auxiliary keys were made and
// for an epoch's lineage that is "not known".

func (r *mountRecord) fromV1() error     { return nil }
func (r *exposuresRecord) fromV1() error { return nil }
func (r *wrappingRecord) fromV1() error  { return nil }

func (r *hsmRecord) fromV1() error { return nil }

func (r *nodesRecord) fromV1() error {
	if r.SessionsPerNode != 0 {
		return errNotItsVersion
	}
	r.SessionsPerNode = defaultNodes().SessionsPerNode
	return nil
}

func (r *rotationRecord) fromV1() error {
	if r.AuxPeriod != 0 {
		return errNotItsVersion
	}
	r.AuxPeriod = defaultRotation().AuxPeriod
	return nil
}

func (r *nodeKeysRecord) fromV1() error {
	if r.Aux != nil && !r.Aux.Made.IsZero() {
		return errNotItsVersion
	}
	return nil
}

func (r *accountRecord) fromV1() error {
	if r.Presign != 0 || r.Current.Lineage != "" || (r.Previous != nil && r.Previous.Lineage != "") {
		return errNotItsVersion
	}
	return nil
}

var errNoV1 = errors.New("is of a type that version 1 does not have")

func (r *heartbeatRecord) fromV1() error { return errNoV1 }
func (r *sparesRecord) fromV1() error    { return errNoV1 }

func (r *mountRecord) fromV2() error     { r.Version = recordVersion; return nil }
func (r *nodesRecord) fromV2() error     { r.Version = recordVersion; return nil }
func (r *nodeKeysRecord) fromV2() error  { r.Version = recordVersion; return nil }
func (r *exposuresRecord) fromV2() error { r.Version = recordVersion; return nil }
func (r *heartbeatRecord) fromV2() error { r.Version = recordVersion; return nil }
func (r *sparesRecord) fromV2() error    { r.Version = recordVersion; return nil }

// Before the nodes' host could provide the PIN it was always stored.
func (r *hsmRecord) fromV2() error {
	if r.PINSource != "" {
		return errNotItsVersion
	}
	r.Version, r.PINSource = recordVersion, pinFromVault
	return nil
}

// A version that is not the newest is retired when somebody looks: how long
// ago it was superseded is not known, and to count from now is on the safe
// side.
func (r *wrappingRecord) fromV2() error {
	if r.State != "" || !r.Retired.IsZero() || !r.Destroyed.IsZero() {
		return errNotItsVersion
	}
	r.Version, r.State = recordVersion, stateLive
	return nil
}

func (r *rotationRecord) fromV2() error {
	if r.IdleRefreshPeriod != 0 || r.RewrapPeriod != 0 || r.RetireAfter != 0 || r.Concurrency != 0 || r.Rate != 0 {
		return errNotItsVersion
	}
	refresh, aux := r.RefreshPeriod, r.AuxPeriod
	*r = defaultRotation()
	r.RefreshPeriod, r.AuxPeriod = refresh, aux
	return nil
}

func (r *accountRecord) fromV2() error {
	if !r.Current.Rewrapped.IsZero() || (r.Previous != nil && !r.Previous.Rewrapped.IsZero()) {
		return errNotItsVersion
	}
	r.Version = recordVersion
	return nil
}

// Records of version 3 and no other.

func (r *pinRefusalRecord) fromV1() error   { return errNoV1 }
func (r *recoveryRecord) fromV1() error     { return errNoV1 }
func (r *recipientSetRecord) fromV1() error { return errNoV1 }
func (r *pinRefusalRecord) fromV2() error   { return errNotItsVersion }
func (r *recoveryRecord) fromV2() error     { return errNotItsVersion }
func (r *recipientSetRecord) fromV2() error { return errNotItsVersion }
func (r *pinRefusalRecord) fromV3() error   { r.Version = recordVersion; return nil }
func (r *recoveryRecord) fromV3() error     { r.Version = recordVersion; return nil }
func (r *recipientSetRecord) fromV3() error { r.Version = recordVersion; return nil }
func (r *mountRecord) fromV3() error        { r.Version = recordVersion; return nil }
func (r *nodesRecord) fromV3() error        { r.Version = recordVersion; return nil }
func (r *nodeKeysRecord) fromV3() error     { r.Version = recordVersion; return nil }
func (r *exposuresRecord) fromV3() error    { r.Version = recordVersion; return nil }
func (r *heartbeatRecord) fromV3() error    { r.Version = recordVersion; return nil }
func (r *sparesRecord) fromV3() error       { r.Version = recordVersion; return nil }
func (r *hsmRecord) fromV3() error          { r.Version = recordVersion; return nil }
func (r *wrappingRecord) fromV3() error     { r.Version = recordVersion; return nil }
func (r *rotationRecord) fromV3() error     { r.Version = recordVersion; return nil }

// Version 3 knew no state of an account but active, and no new name.
func (r *accountRecord) fromV3() error {
	if r.Frozen != nil || r.Deleted != nil || r.RenamingTo != "" {
		return errNotItsVersion
	}
	r.Version = recordVersion
	return nil
}

// Records of version 4 and no other.

func (r *accountsConfigRecord) fromV1() error { return errNoV1 }
func (r *accountsConfigRecord) fromV2() error { return errNotItsVersion }
func (r *accountsConfigRecord) fromV3() error { return errNotItsVersion }
func (r *signedRequestRecord) fromV1() error  { return errNoV1 }
func (r *signedRequestRecord) fromV2() error  { return errNotItsVersion }
func (r *signedRequestRecord) fromV3() error  { return errNotItsVersion }

// sinceV5 is part of records that no version before 5 has.
type sinceV5 struct{}

func (sinceV5) fromV1() error { return errNotItsVersion }
func (sinceV5) fromV2() error { return errNotItsVersion }
func (sinceV5) fromV3() error { return errNotItsVersion }
func (sinceV5) isNew()        {}

// fromV4 makes a record of version 4 or before one of today.
func fromV4(r storedRecord) error {
	if _, ok := r.(interface{ isNew() }); ok {
		return errNotItsVersion
	}
	if a, ok := r.(*accountRecord); ok && a.Custody != nil {
		return errNotItsVersion
	}
	// Every record has the field.
	reflect.ValueOf(r).Elem().FieldByName("Version").SetInt(recordVersion)
	return nil
}

// sinceV6 is part of records that no version before 6 has.
type sinceV6 struct{ sinceV5 }

func (sinceV6) isNewInV6() {}

// Version 5 knew one wrapping domain and no homes of shares. A type to which
// version 6 has added fields says itself what version 5 cannot have written.
func fromV5(r storedRecord) error {
	if _, ok := r.(interface{ isNewInV6() }); ok {
		return errNotItsVersion
	}
	if older, ok := r.(interface{ fromV5() error }); ok {
		if err := older.fromV5(); err != nil {
			return err
		}
	}
	reflect.ValueOf(r).Elem().FieldByName("Version").SetInt(recordVersion)
	return nil
}

func (r *wrappingRecord) fromV5() error {
	if r.Endorsement != nil || !r.KeyDestroyed.IsZero() || !r.LeftBehind.IsZero() || len(r.Domains) > 0 {
		return errNotItsVersion
	}
	return nil
}

func (r *accountRecord) fromV5() error {
	if len(r.Current.Homes) > 0 || r.Previous != nil && len(r.Previous.Homes) > 0 {
		return errNotItsVersion
	}
	return nil
}

// sinceV7 is part of records that no version before 7 has.
type sinceV7 struct{ sinceV6 }

func (sinceV7) isNewInV7() {}

// Version 6 knew no approvals.
func fromV6(r storedRecord) error {
	if _, ok := r.(interface{ isNewInV7() }); ok {
		return errNotItsVersion
	}
	if a, ok := r.(*accountRecord); ok && (len(a.Current.Policy) > 0 || a.Previous != nil && len(a.Previous.Policy) > 0) {
		return errNotItsVersion
	}
	reflect.ValueOf(r).Elem().FieldByName("Version").SetInt(recordVersion)
	return nil
}
