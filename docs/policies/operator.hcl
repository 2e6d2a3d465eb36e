# Operator: runs the mount and the life of accounts. Cannot sign, nor have a
# certificate request signed, and cannot destroy anything at once.
#
#   vault policy write mpc-operator docs/policies/operator.hcl
#
# Renaming moves an account under other policies: who may do that, and sign too,
# may sign with every account.

# config/*, recovery/* and destroy/* need sudo besides.
path "mpc/config/*" {
  capabilities = ["create", "read", "update", "sudo"]
}
# How long deleted accounts can be restored stays as it is: with a wait of a minute
# a deletion would be a destruction.
path "mpc/config/accounts" {
  capabilities = ["read", "sudo"]
}
path "mpc/recovery/*" {
  capabilities = ["read", "update", "sudo"]
}

path "mpc/accounts/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}
path "mpc/accounts/+/csr" {
  capabilities = ["deny"]
}
path "mpc/verify/*" {
  capabilities = ["update"]
}

# Identities belong to their owners, who change them in sessions of their own. An
# operator sees them, stops what is lost, and lets the locked try again.
path "mpc/identities/*" {
  capabilities = ["read", "list"]
}
path "mpc/identities/+/freeze" {
  capabilities = ["update"]
}
path "mpc/identities/+/unfreeze" {
  capabilities = ["update"]
}
path "mpc/authenticators/*" {
  capabilities = ["read", "list", "delete"]
}
path "mpc/authenticators/+/lost" {
  capabilities = ["update"]
}
path "mpc/authenticators/+/found" {
  capabilities = ["update"]
}
path "mpc/authenticators/+/unlock" {
  capabilities = ["update"]
}
path "mpc/config/identities/oidc/*" {
  capabilities = ["create", "read", "update", "delete", "list", "sudo"]
}

path "mpc/nodes/*" {
  capabilities = ["read", "update", "list"]
}
path "mpc/rotation/*" {
  capabilities = ["update"]
}
path "mpc/wrapping-keys/*" {
  capabilities = ["read", "update", "list"]
}
path "mpc/metrics" {
  capabilities = ["read"]
}

# Destruction has no way back: grant it for the occasion, to two people.
#
# path "mpc/destroy/*" {
#   capabilities = ["update", "delete", "sudo"]
# }
# path "mpc/identities/+" {
#   capabilities = ["read", "delete"]
# }
# path "mpc/config/accounts" {
#   capabilities = ["create", "read", "update", "sudo"]
# }
