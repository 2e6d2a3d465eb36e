# Settings of an MPC node on a host of its own: /etc/mpc-node/node.hcl.
# Look it over with: vault-plugin-secrets-mpc node check
# An unknown key is an error. What is commented out shows the default, or an example.

# The node's name: what the mount calls it, and what its identity is bound to.
name = "eu-1"

# Where the node stands. Shares of an account are spread over regions.
region = "eu"
zone   = "eu-a"

# The wrapping domain: which token shares are sealed to. A token of the node's own, or
# of its region, has a name of its own; "default" is the token of the mount's local
# nodes, whose keys this one then has to show.
domain = "eu"

# Where coordinators connect, with mutual TLS 1.3.
listen = "0.0.0.0:8300"

# What outlives the process, mode 0700: the identity (sealed by a key in the token), the
# TLS key, who was enrolled, and the floor. Back it up with this host, never with Vault.
state_dir = "/var/lib/mpc-node"

# What running sessions get after SIGTERM.
drain_timeout = "30s"

hsm {
  module   = "/usr/lib/softhsm/libsofthsm2.so"
  token    = "mpc-eu-1"
  # serial = ""
  # One line, mode 0600 or 0400. It is tried once; a PIN that is refused stops the node.
  pin_file = "/etc/mpc-node/pin"
  # init_args  = ""      # for modules that need it, such as NSS
  # allow_sha1 = false   # RSA-OAEP with SHA-1: for tests with SoftHSM only
}

# Without files here the node makes its own key and certificate, and coordinators pin
# the key. Files are read again when they change.
tls {
  # cert_file      = "/etc/mpc-node/tls.crt"
  # key_file       = "/etc/mpc-node/tls.key"
  # client_ca_file = "/etc/mpc-node/coordinators.pem"
}

# The Ed25519 key that signs recipient sets (`mpckms authority`), 64 hex digits. Write it
# here: without it the node takes the one that the coordinator sends when it enrols.
# authority = "…"

# /healthz, /readyz and /metrics; no secrets, no credentials.
telemetry {
  listen = "127.0.0.1:8301"
}

# What this host's operator allows; each restricts, whatever the coordinator says.
switches {
  # Serve only accounts that demand approvals.
  require_policy = false
  # Make shares only where no wrapping domain gets as many as sign.
  require_spread = false
  # Where not empty, the only ones: keygen, refresh, sign, presign, rewrap, import, login.
  operations = []
  # Where not empty, the only ones, such as "ed25519" and "ecdsa-secp256k1".
  algorithms = []
  # Never destroy a wrapping key.
  keep_wrapping_keys = false
}

# Identities of peers that nothing else can change.
# peer "local-1" {
#   identity = "…"
# }
