# Operator of approvers: says who approvers are, enrols their devices, and sees what
# requests there are. Cannot ask for signatures, and cannot change the policy of an
# account: a device that is enrolled here counts in no account until its policy is
# changed, which the approvers of the present one approve.
#
#   vault policy write mpc-approvers docs/policies/approvers.hcl
#
# An approver who is tied to an identity with authenticators confirms devices in a
# session of that identity, and not by this policy.

path "mpc/approvers/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# Whose policies name whom. With "update" the first policy of an account is given at
# once: that is for who makes accounts (operator.hcl).
path "mpc/accounts/*" {
  capabilities = ["list"]
}
path "mpc/accounts/+/policy" {
  capabilities = ["read"]
}

# What waits, and what ended lately, with the messages. "update" on requests/+/cancel
# would let somebody here end them.
path "mpc/requests/*" {
  capabilities = ["read", "list"]
}

# How phones reach Vault. config/* needs sudo.
path "mpc/config/ui" {
  capabilities = ["create", "read", "update", "sudo"]
}
