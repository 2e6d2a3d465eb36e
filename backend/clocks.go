package backend

import (
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// Bounds and defaults of the clocks in config/rotation; those of refresh_period
// hold for accounts' own as well.
const (
	minRefreshPeriod     = time.Second
	maxRefreshPeriod     = 365 * 24 * time.Hour
	defaultRefreshPeriod = 10 * time.Minute
	minAuxPeriod         = time.Minute
	maxAuxPeriod         = 365 * 24 * time.Hour
	defaultAuxPeriod     = time.Hour
	// minRewrapPeriod is that of a refresh: a new version may come as often as
	// new shares do. Each one makes and later destroys a key pair in the token.
	minRewrapPeriod     = time.Second
	maxRewrapPeriod     = 10 * 365 * 24 * time.Hour
	defaultRewrapPeriod = 24 * time.Hour
	// minRetireAfter is not 0: the version that was just superseded is still
	// being sealed to by sessions under way, and a snapshot taken a moment ago
	// should not be lost at once.
	minRetireAfter     = time.Second
	maxRetireAfter     = 10 * 365 * 24 * time.Hour
	defaultRetireAfter = 7 * 24 * time.Hour
	// maxRetiredPeriods keeps the versions that wait for retire_after below
	// maxLiveVersions, with some to spare for accounts that follow late.
	maxRetiredPeriods  = maxLiveVersions - 14
	maxConcurrency     = 64
	defaultConcurrency = 2
	maxRate            = 10000
	defaultRate        = 25
	// rotationJitter brings refreshes forward by up to a tenth of the period,
	// so that accounts created together spread out.
	rotationJitter = 0.1
)

func defaultRotation() rotationRecord {
	return rotationRecord{
		Version:       recordVersion,
		RefreshPeriod: int64(defaultRefreshPeriod / time.Second),
		AuxPeriod:     int64(defaultAuxPeriod / time.Second),
		RewrapPeriod:  int64(defaultRewrapPeriod / time.Second),
		RetireAfter:   int64(defaultRetireAfter / time.Second),
		Concurrency:   defaultConcurrency,
		Rate:          defaultRate,
	}
}

// takeClocks takes over the fields that were given and checks the whole.
func takeClocks(r *rotationRecord, data *framework.FieldData) error {
	for name, into := range map[string]*int64{
		"refresh_period": &r.RefreshPeriod, "idle_refresh_period": &r.IdleRefreshPeriod, "aux_period": &r.AuxPeriod,
		"rewrap_period": &r.RewrapPeriod, "retire_after": &r.RetireAfter,
	} {
		v, ok := data.GetOk(name)
		if !ok {
			continue
		}
		*into = int64(v.(int))
		if *into == 0 && !isZero(data.Raw[name]) {
			*into = -1 // less than a second is out of bounds, and not "never"
		}
	}
	for name, into := range map[string]*int{"concurrency": &r.Concurrency, "rate": &r.Rate} {
		if v, ok := data.GetOk(name); ok {
			*into = v.(int)
		}
	}
	return checkClocks(r)
}

func checkClocks(r *rotationRecord) error {
	if err := checkRefreshPeriod(r.RefreshPeriod); err != nil {
		return err
	}
	switch {
	case r.IdleRefreshPeriod != 0 && (r.IdleRefreshPeriod < r.RefreshPeriod || !within(r.IdleRefreshPeriod, minRefreshPeriod, maxRefreshPeriod)):
		return invalid("idle_refresh_period must be at least refresh_period (%s) and at most 8760h (a year), or 0 for the same as refresh_period", shortSeconds(r.RefreshPeriod))
	case r.AuxPeriod != 0 && !within(r.AuxPeriod, minAuxPeriod, maxAuxPeriod):
		return invalid("aux_period must be %s to 8760h (a year), or 0 for never", short(minAuxPeriod))
	case r.RewrapPeriod != 0 && !within(r.RewrapPeriod, minRewrapPeriod, maxRewrapPeriod):
		return invalid("rewrap_period must be %v to 87600h (ten years), or 0 for only by wrapping-keys/rotate", minRewrapPeriod)
	case !within(r.RetireAfter, minRetireAfter, maxRetireAfter):
		return invalid("retire_after must be %v to 87600h (ten years): sessions under way still seal to the version that was just superseded", minRetireAfter)
	case r.RewrapPeriod != 0 && r.RetireAfter > maxRetiredPeriods*r.RewrapPeriod:
		return invalid("retire_after must be at most %d times rewrap_period (%s), since at most %d versions of the wrapping key are kept: lower retire_after or raise rewrap_period", maxRetiredPeriods, shortSeconds(maxRetiredPeriods*r.RewrapPeriod), maxLiveVersions)
	case r.Concurrency < 1 || r.Concurrency > maxConcurrency:
		return invalid("concurrency must be 1 to %d", maxConcurrency)
	case r.Rate < 1 || r.Rate > maxRate:
		return invalid("rate must be 1 to %d refreshes per second; to stop refreshing, make refresh_period long", maxRate)
	}
	return nil
}

// short is a duration as people write it: 168h and not 168h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

func shortSeconds(n int64) string { return short(time.Duration(n) * time.Second) }

// within takes seconds.
func within(seconds int64, least, most time.Duration) bool {
	return seconds >= int64(least/time.Second) && seconds <= int64(most/time.Second)
}

// checkRefreshPeriod takes seconds.
func checkRefreshPeriod(seconds int64) error {
	if !within(seconds, minRefreshPeriod, maxRefreshPeriod) {
		return invalid("refresh_period must be %v to 8760h (a year)", minRefreshPeriod)
	}
	return nil
}
