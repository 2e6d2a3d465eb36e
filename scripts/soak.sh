#!/usr/bin/env bash
# soak.sh DURATION [SEED [REMOTE]]: has clients create accounts, sign and refresh on a
# real Vault while nodes, plugin and Vault are killed, Vault is sealed, the
# plugin reloaded, wrapping keys rotated, the token taken away and the pool
# changed, all at random. With REMOTE, that many nodes are daemons with networks
# of their own, 50 ms apart, that are killed, drained and cut off; this needs
# root and /dev/net/tun. At the end every account must have its key, open all
# its shares and sign. The last line says what was done and what was lost; exit
# code 1 if anything was. Needs a built plugin.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MPC_SOAK_DURATION=$1 MPC_SOAK_SEED=${2:-} MPC_SOAK_REMOTE=${3:-}
MPC_VAULT_BIN=$(scripts/vault.sh)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MPC_VAULT_BIN MPC_SOAK_SUMMARY=$work/summary
export MPC_PLUGIN_DIR=$PWD/bin/plugins MPC_PLUGIN_VERSION=v${VERSION:-0.1.0}
# The test binary itself, not `go test`: its lines appear as they are printed.
CGO_ENABLED=1 go test -c -tags e2e -o "$work/soak" ./plugin/e2e
code=0
(cd plugin/e2e && "$work/soak" -test.run '^TestSoak$' -test.timeout 0) || code=1
if [[ -s "$MPC_SOAK_SUMMARY" ]]; then
	cat "$MPC_SOAK_SUMMARY"
else
	echo "soak: ended before it began; lost: not known"
	code=1
fi
exit "$code"
