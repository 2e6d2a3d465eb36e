package recovery

import "strings"

// IsRecipientDomain says whether a seal's domain is that of a recovery recipient,
// and not of a wrapping domain: what was sealed to it is opened by a custodian.
func IsRecipientDomain(domain string) bool { return strings.HasPrefix(domain, domainPrefix) }
