package recovery

import "strings"

// IsRecipient reports whether a seal's domain names a recovery recipient, and not
// a wrapping domain with a token of its own.
func IsRecipient(domain string) bool { return strings.HasPrefix(domain, domainPrefix) }
