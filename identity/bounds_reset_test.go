package identity

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestResetAtTheBounds: an identity that could be made as large as it is can also
// be reset, every role of it.
func TestResetAtTheBounds(t *testing.T) {
	now := time.Now()
	long := func(prefix string, k int) string {
		name := fmt.Sprintf("%s-%02d-", prefix, k)
		return name + strings.Repeat("x", MaxName-len(name))
	}
	keys, err := NewKeys(NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	var roles []string
	for k := 1; k < MaxRoles; k++ {
		roles = append(roles, long("role", k))
	}
	who := &Authenticator{Format: 1, ID: NewID(), Name: long("who", 0), Method: KeyFile, Keys: keys.Public()}
	s, o, err := Create(NewIdentity{Name: long("id", 0), Kind: Organization, Roles: roles, Authenticator: who, Keys: keys, Time: now})
	if err != nil {
		t.Fatal(err)
	}
	open := func(s *SignedManifest) {
		t.Helper()
		o.Wipe()
		if o, _, err = OpenIdentity(s, Pin{}, who.ID, keys); err != nil {
			t.Fatal(err)
		}
	}
	open(s)
	granted := 1
	var lost ID
	for ; granted < MaxGrants; granted++ {
		other, err := NewKeys(NewSeed())
		if err != nil {
			t.Fatal(err)
		}
		a := &Authenticator{Format: 1, ID: NewID(), Name: long("who", granted), Method: KeyFile, Keys: other.Public()}
		next, err := o.Change(now, AddGrant{Authenticator: a, Level: FullLevel})
		other.Wipe()
		if err != nil {
			t.Logf("%d grants of %d roles: %v", granted, MaxRoles, err)
			break
		}
		lost, s = a.ID, next
		open(s)
	}
	// Levels that nobody has, down to the last bytes that changes may use.
	for roles, k := 31, 0; roles > 0 && k < MaxLevels-2; {
		l := Level{Name: long("level", k), Roles: append([]string{}, o.Manifest.Level(FullLevel).Roles[:roles]...)}
		next, err := o.Change(now, SetLevel{Level: l})
		if err != nil {
			roles /= 2
			continue
		}
		k++
		s = next
		open(s)
	}
	if granted < 50 {
		t.Errorf("%d grants of every role are all that an identity has room for", granted)
	}
	t.Logf("%d grants of %d roles: %d bytes", granted, MaxRoles, len(s.Manifest))
	// The most that a reset adds: new keys for every role, and nobody goes.
	if _, err := o.Change(now, RotateRoles{Roles: append([]string{OwnerRole}, roles...)}); err != nil {
		t.Errorf("new keys for every role: %v", err)
	}
	next, err := o.Change(now, RemoveGrant{Authenticator: lost}, RotateRoles{Roles: append([]string{OwnerRole}, roles...)})
	if err != nil {
		t.Fatalf("the reset of an identity with %d grants: %v", granted, err)
	}
	t.Logf("while it is reset: %d bytes", len(next.Manifest))
	open(next)
}
