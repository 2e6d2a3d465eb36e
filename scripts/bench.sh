#!/usr/bin/env bash
# bench.sh: measures the engine, the raw protocol libraries and Vault's transit
# engine in one run and prints tables with ratios. Needs a built plugin.
#
#   BENCHTIME=5s     how long each request is measured with each number of clients
#   ACCOUNTS=1000    accounts when memory is read (10000 takes some minutes more)
#   QUICK=1          a few of everything, to see that it works
#   JSON=file        also write the figures to this file
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/softhsm.sh
source scripts/softhsm.sh
args=(
	-vault "$(scripts/vault.sh)"
	-plugin "$PWD/bin/plugins/vault-plugin-secrets-mpc"
	-version "v${VERSION:-0.1.0}"
	-softhsm "$(softhsm_module)"
	-time "${BENCHTIME:-5s}"
	-accounts "${ACCOUNTS:-1000}"
)
[[ -z "${QUICK:-}" ]] || args+=(-quick)
[[ -z "${JSON:-}" ]] || args+=(-json "$(realpath -m -- "$JSON")")
program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
args+=(-floor "$program/floor")
(cd bench && go build -o "$program/bench" . && go build -o "$program/floor" ./floor)
"$program/bench" "${args[@]}"
