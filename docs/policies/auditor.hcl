# Auditor: reads and lists everything there is to know, and changes nothing. The
# engine never returns a PIN or a share in clear.
#
#   vault policy write mpc-auditor docs/policies/auditor.hcl

# Configuration needs sudo, also for reading.
path "mpc/config/*" {
  capabilities = ["read", "sudo"]
}

path "mpc/accounts/*" {
  capabilities = ["read", "list"]
}
# What identities hold is encrypted, for the auditor as for everybody else.
path "mpc/identities/*" {
  capabilities = ["read", "list"]
}
path "mpc/authenticators/*" {
  capabilities = ["read", "list"]
}
path "mpc/nodes/*" {
  capabilities = ["read", "list"]
}
path "mpc/wrapping-keys/*" {
  capabilities = ["read", "list"]
}
# Who may approve, what waits for approvals, and what ended lately, with the messages.
path "mpc/approvers/*" {
  capabilities = ["read", "list"]
}
path "mpc/requests/*" {
  capabilities = ["read", "list"]
}
path "mpc/metrics" {
  capabilities = ["read"]
}

# Written to, because they take fields; they compute from public data and keep
# nothing.
path "mpc/verify/*" {
  capabilities = ["update"]
}
path "mpc/accounts/+/addresses" {
  capabilities = ["read", "update"]
}
path "mpc/accounts/+/derive" {
  capabilities = ["update"]
}
