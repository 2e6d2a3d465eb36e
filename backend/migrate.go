package backend

import "errors"

// Version 1, of the first release, knew neither presignatures, periods of
// auxiliary keys, limits of sessions nor restored storage. Fields that it lacks
// get their defaults; for the time at which auxiliary keys were made and for an
// epoch's lineage that is "not known".

func (r *mountRecord) fromV1() error     { r.Version = recordVersion; return nil }
func (r *wrappingRecord) fromV1() error  { r.Version = recordVersion; return nil }
func (r *exposuresRecord) fromV1() error { r.Version = recordVersion; return nil }

func (r *hsmRecord) fromV1() error {
	if r.PINSource != "" {
		return errNotV1
	}
	r.Version, r.PINSource = recordVersion, pinFromVault
	return nil
}

func (r *nodesRecord) fromV1() error {
	if r.SessionsPerNode != 0 {
		return errNotV1
	}
	r.Version, r.SessionsPerNode = recordVersion, defaultNodes().SessionsPerNode
	return nil
}

func (r *rotationRecord) fromV1() error {
	if r.AuxPeriod != 0 {
		return errNotV1
	}
	r.Version, r.AuxPeriod = recordVersion, defaultRotation().AuxPeriod
	return nil
}

func (r *nodeKeysRecord) fromV1() error {
	if r.Aux != nil && !r.Aux.Made.IsZero() {
		return errNotV1
	}
	r.Version = recordVersion
	return nil
}

func (r *accountRecord) fromV1() error {
	if r.Presign != 0 || r.Current.Lineage != "" || (r.Previous != nil && r.Previous.Lineage != "") {
		return errNotV1
	}
	r.Version = recordVersion
	return nil
}

var errNoV1 = errors.New("is of a type that version 1 does not have")

func (r *heartbeatRecord) fromV1() error    { return errNoV1 }
func (r *sparesRecord) fromV1() error       { return errNoV1 }
func (r *pinRefusalRecord) fromV1() error   { return errNoV1 }
func (r *recoveryRecord) fromV1() error     { return errNoV1 }
func (r *recipientSetRecord) fromV1() error { return errNoV1 }
