# Application: signs with its own accounts and reads their public facts. It cannot
# create, change, freeze or delete an account, and neither use nor see others.
#
#   vault policy write payments docs/policies/application.hcl
#
# A policy goes by names. Who may create or rename accounts (operator.hcl) decides
# which accounts it covers.

# To allow some fields of sign/ only (allowed_parameters), deny batch_input as well,
# whose items have fields of their own, and message_type "raw" and "digest" where
# only Ethereum messages are meant: raw bytes can be those of any message.

# All accounts whose names begin with "app-". A glob stands at the end only, so
# what is below accounts/NAME/ can be read here (addresses, jwk) and no more.
path "mpc/sign/app-*" {
  capabilities = ["update"]
}
path "mpc/verify/app-*" {
  capabilities = ["update"]
}
path "mpc/accounts/app-*" {
  capabilities = ["read"]
}

# One account by its name, with public keys of its children.
path "mpc/sign/payments" {
  capabilities = ["update"]
}
path "mpc/verify/payments" {
  capabilities = ["update"]
}
path "mpc/accounts/payments" {
  capabilities = ["read"]
}
path "mpc/accounts/payments/derive" {
  capabilities = ["update"]
}
path "mpc/accounts/payments/addresses" {
  capabilities = ["read", "update"]
}
path "mpc/accounts/payments/jwk" {
  capabilities = ["read"]
}
