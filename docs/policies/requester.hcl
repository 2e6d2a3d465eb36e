# Requester: asks for signatures of accounts that demand approvals, shows the code,
# and fetches the result. The same policy signs at once with accounts that demand
# none, so name the accounts.
#
#   vault policy write mpc-requester docs/policies/requester.hcl
#
# The token needs an entity: any login with an auth method has one.

path "mpc/sign/*" {
  capabilities = ["update"]
}
path "mpc/verify/*" {
  capabilities = ["update"]
}
path "mpc/accounts/+" {
  capabilities = ["read"]
}
# May ask for another policy, too, which those approve whom the present one names.
# An account that has none is given its first one at once: leave "update" out where
# there are such accounts.
path "mpc/accounts/+/policy" {
  capabilities = ["read", "update"]
}

# Requests of others can be seen with their messages, and cancelled; only the
# requester gets the code's seed.
path "mpc/requests/*" {
  capabilities = ["read", "update", "list"]
}
