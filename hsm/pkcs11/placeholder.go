package pkcs11

import "vault-plugin-secrets-mpc/hsm"

type KeyRequest = hsm.KeyRequest
type KeyObject = hsm.KeyObject
