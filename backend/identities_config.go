package backend

import (
	"context"
	"net"
	"net/url"
	"time"
)

// Bounds and default of session_ttl.
const (
	defaultSessionTTL = 15 * time.Minute
	minSessionTTL     = time.Minute
	maxSessionTTL     = 12 * time.Hour
)

// identitiesConfig returns the defaults when nothing is stored.
func (s *store) identitiesConfig(ctx context.Context) (*identitiesConfigRecord, error) {
	r := &identitiesConfigRecord{}
	ok, err := s.get(ctx, keyIdentities, r)
	if err == nil && !ok {
		r = &identitiesConfigRecord{Version: recordVersion, SessionTTL: int64(defaultSessionTTL / time.Second)}
	}
	return r, err
}

func (r *identitiesConfigRecord) sessionTTL() time.Duration {
	return time.Duration(r.SessionTTL) * time.Second
}

// checkWebURL accepts https URLs, and http ones on this host. What it says does
// not repeat the URL, which may have a secret in it.
func checkWebURL(field, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || len(text) > 2048 || u.Fragment != "":
		return invalid("%s is not a URL, such as https://id.example.com", field)
	case u.User != nil:
		return invalid("%s has a user or password in it, which would be shown: leave them out", field)
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return invalid("%s must begin with https:// (http:// is for this host alone, such as http://127.0.0.1:8200)", field)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
