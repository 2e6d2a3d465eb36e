#!/usr/bin/env bash
# Prints, on stdout and alone, the path of a usable vault binary:
#   1. MPC_VAULT_BIN, when set;
#   2. vault on PATH, when it is 1.15 or newer;
#   3. the pinned version in the cache folder, built there when missing.
# Progress goes to stderr. The pin is the one in scripts/vault/go.mod.
set -euo pipefail
[[ -z "${MPC_VAULT_BIN:-}" ]] || MPC_VAULT_BIN=$(realpath -- "$MPC_VAULT_BIN")
cd "$(dirname "${BASH_SOURCE[0]}")/vault"

say() { printf 'vault: %s\n' "$*" >&2; }

# usable PATH: whether this is HashiCorp Vault 1.15 or newer, the oldest that is
# supported here.
usable() {
	local major minor
	read -r major minor < <("$1" version 2>/dev/null | sed -n 's/^Vault v\([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p') || return 1
	((major > 1 || (major == 1 && minor >= 15)))
}

if [[ -n "${MPC_VAULT_BIN:-}" ]]; then
	usable "$MPC_VAULT_BIN" || { say "MPC_VAULT_BIN=$MPC_VAULT_BIN is no Vault 1.15 or newer"; exit 1; }
	printf '%s\n' "$MPC_VAULT_BIN"
	exit
fi

if found=$(command -v vault); then
	if usable "$found"; then
		printf '%s\n' "$found"
		exit
	fi
	say "ignoring $found: not HashiCorp Vault 1.15 or newer"
fi

version=$(sed -n 's/^require github.com\/hashicorp\/vault v//p' go.mod)
[[ -n "$version" ]] || { say "no version of github.com/hashicorp/vault in scripts/vault/go.mod"; exit 1; }
cache=${XDG_CACHE_HOME:-${HOME:?vault: neither HOME nor XDG_CACHE_HOME is set, nowhere to keep the built vault}/.cache}/vault-plugin-secrets-mpc/vault-$version
binary=$cache/vault

if [[ -x "$binary" ]]; then
	printf '%s\n' "$binary"
	exit
fi

mkdir -p "$cache"
# One builder at a time; the second finds the first one's result.
exec 9>"$cache/lock"
if ! flock -n 9; then
	say "another build of Vault $version is running, waiting for it"
	flock 9
fi
if [[ -x "$binary" ]]; then
	printf '%s\n' "$binary"
	exit
fi

say "no vault found: building Vault $version once into $cache"
say "this takes about 10 minutes on two cores and 4 GB in Go's module cache; later runs reuse it"
partial=$cache/vault.partial.$$
log=$cache/build.log
builder=
trap '[[ -z "$builder" ]] || kill "$builder" 2>/dev/null || true; rm -f "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# 9>&-: the lock must not outlive this script in a child.
CGO_ENABLED=0 go build -buildvcs=false -tags vault -ldflags "-s -w" -o "$partial" . >"$log" 2>&1 9>&- &
builder=$!
started=$SECONDS
while kill -0 "$builder" 2>/dev/null; do
	sleep 1 9>&-
	elapsed=$((SECONDS - started))
	if ((elapsed % 30 == 0)); then
		say "still building, $((elapsed / 60)) min $((elapsed % 60)) s"
	fi
done
if ! wait "$builder"; then
	builder=
	say "the build failed; the end of $log:"
	tail -n 20 "$log" >&2
	exit 1
fi
builder=
usable "$partial" || { say "the built binary does not run"; exit 1; }
mv "$partial" "$binary"
say "built $binary in $((SECONDS - started)) s"
printf '%s\n' "$binary"
