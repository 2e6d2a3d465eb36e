# User: makes authenticators and identities of his own. Everything after that goes
# by a login with one of them (mpckms login), which needs no token of Vault: using,
# changing and resetting an identity, its assets and its devices.
#
#   vault policy write mpc-user docs/policies/user.hcl
#
# Names that are taken stay as they are: this creates, and changes nothing. To keep
# a user to names of his own, write a prefix in the place of "+", as in "alice-*",
# or a template: "{{identity.entity.name}}-*". A glob covers what is below the name
# as well, such as unlock: leave "update" out of it, and name register in full.

path "mpc/authenticators/+" {
  capabilities = ["create", "read"]
}
path "mpc/authenticators/+/register" {
  capabilities = ["update"]
}
path "mpc/identities/+" {
  capabilities = ["create", "read"]
}

# What third parties are known by, to make an authenticator of kind oidc. Nothing in
# it is confidential; sudo, because it lies below config/.
path "mpc/config/identities/oidc/+" {
  capabilities = ["read", "sudo"]
}

# Accounts whose shares open with a custody key of the user's identity. Signing with
# them goes by the login.
#
# path "mpc/accounts/alice-*" {
#   capabilities = ["create", "read"]
# }
