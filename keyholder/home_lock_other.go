//go:build !unix

package keyholder

// lock does nothing where there is no flock: two processes of one user that log in
// at once may then keep the older of two pins, which the next login puts right.
func (h *Home) lock() (unlock func(), err error) { return func() {}, nil }
