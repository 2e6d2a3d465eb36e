#!/usr/bin/env bash
# test-cluster.sh [--bench] [ARGS]: tests the engine with nodes on hosts of
# their own: node daemons in network namespaces, 50 ms apart, behind a router
# that loses, delays and cuts. ARGS go to the test binary, for example
# -test.run=TestLabCluster/LostRegion. With --bench it prints figures by
# number of nodes instead. Needs a built plugin, root and /dev/net/tun: where
# these are missing it says so and ends well, or with an error when
# MPC_REQUIRE_CLUSTER=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run=(-test.run='^TestLab')
if [[ "${1:-}" == --bench ]]; then
	shift
	run=(-test.run='^$' -test.bench='^BenchmarkLab' -test.benchtime=1x)
fi

skip() {
	printf 'make test-cluster: SKIPPED, nothing was tested: %s\n' "$1"
	[[ "${MPC_REQUIRE_CLUSTER:-}" != 1 ]] || exit 1
	exit 0
}

[[ "$(uname -s)" == Linux ]] || skip "network namespaces are Linux's"
CGO_ENABLED=1 go test -c -o "$work/netlab" ./plugin/e2e/netlab
available=$(cd plugin/e2e/netlab && "$work/netlab" -test.v -test.run='^TestAvailable$') || { printf '%s\n' "$available"; exit 1; }
if grep -q -- '--- SKIP' <<<"$available"; then
	skip "$(sed -n 's/^ *[a-z_]*\.go:[0-9]*: //p' <<<"$available")"
fi
# The network itself first: what follows means nothing if it does not do what
# it is told.
(cd plugin/e2e/netlab && "$work/netlab" -test.timeout=5m)

MPC_VAULT_BIN=$(scripts/vault.sh)
export MPC_VAULT_BIN MPC_CLUSTER=1
export MPC_PLUGIN_DIR=$PWD/bin/plugins MPC_CLI_BIN=$PWD/bin/mpckms MPC_PLUGIN_VERSION=v${VERSION:-0.1.0}
CGO_ENABLED=1 go test -c -tags e2e -o "$work/cluster" ./plugin/e2e
# The test binary itself, not `go test`: its lines appear as they are printed.
cd plugin/e2e
"$work/cluster" -test.v -test.timeout=20m "${run[@]}" "$@"
