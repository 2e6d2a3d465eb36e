package recovery

import (
	"strings"

	"vault-plugin-secrets-mpc/hsm"
)

// IsRecipientDomain says whether a seal's domain is that of a recovery recipient,
// and not of a wrapping domain: what was sealed to it is opened by a custodian.
func IsRecipientDomain(domain string) bool { return strings.HasPrefix(domain, domainPrefix) }

// WrappingDomain returns the wrapping domain that an envelope is sealed to, besides
// recovery recipients; empty where it cannot be read.
func WrappingDomain(envelope []byte) string {
	seals, err := hsm.Seals(envelope)
	if err != nil {
		return ""
	}
	for _, s := range seals {
		if !IsRecipientDomain(s.Domain) {
			return s.Domain
		}
	}
	return ""
}
