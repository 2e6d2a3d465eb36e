#!/usr/bin/env bash
# Checks what building and testing needs and installs what is missing: through
# apt when root on a Debian-like system, otherwise it prints the line to run.
# Prints nothing but one line when everything is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/softhsm.sh
source scripts/softhsm.sh

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# version_ge A B: whether dotted version A is at least B.
version_ge() { [[ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" == "$2" ]]; }

check_go() {
	local want have
	want=$(sed -n 's/^go \([0-9.]*\).*/\1/p' go.mod)
	command -v go >/dev/null || die "Go $want or newer is needed and there is no go on PATH. Install it from https://go.dev/dl/ and run this again."
	# A Go since 1.21 fetches the toolchain that go.mod asks for by itself, and
	# then reports that one here.
	have=$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//') || true
	[[ -n "$have" ]] || have=$(GOTOOLCHAIN=local go version 2>/dev/null | sed -n 's/.*go\([0-9][0-9.]*\).*/\1/p') || true
	if [[ -z "$have" ]] || ! version_ge "$have" "$want"; then
		die "Go $want or newer is needed, found ${have:-none}. Install it from https://go.dev/dl/ and run this again."
	fi
	go_version=$have
}

# A compiler without the C library's headers is no compiler for cgo.
has_c_compiler() {
	local cc
	cc=$(go env CC)
	command -v "${cc%% *}" >/dev/null && printf '#include <stdlib.h>\n#include <dlfcn.h>\n' | $cc -fsyntax-only -xc - 2>/dev/null
}

missing_packages() {
	has_c_compiler || echo gcc libc6-dev
	{ command -v softhsm2-util && softhsm_module; } >/dev/null 2>&1 || echo softhsm2
	command -v openssl >/dev/null || echo openssl
	# The second PKCS#11 module that the tests run on.
	command -v certutil >/dev/null || echo libnss3 libnss3-tools
	# The browser in which the pages for approvers are tested.
	command -v chromium >/dev/null || echo chromium
	# A keyring of an operating system, for authenticators of kind device.
	{ command -v dbus-daemon && command -v gnome-keyring-daemon; } >/dev/null 2>&1 || echo dbus-daemon gnome-keyring
}

install() {
	local apt=(apt-get -o DPkg::Lock::Timeout=120 -q -y)
	echo "setup: installing $*" >&2
	export DEBIAN_FRONTEND=noninteractive
	"${apt[@]}" install --no-install-recommends "$@" >&2 && return
	# The package lists of a fresh container are empty or stale.
	echo "setup: refreshing the package lists" >&2
	"${apt[@]}" update >&2
	"${apt[@]}" install --no-install-recommends "$@" >&2
}

check_go
mapfile -t missing < <(missing_packages | tr ' ' '\n')
if ((${#missing[@]})); then
	if ! command -v apt-get >/dev/null; then
		die "missing: ${missing[*]} (Debian package names). Install them with this system's package manager and run this again."
	fi
	if ((EUID != 0)); then
		die "missing: ${missing[*]}. Run this line, then start again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
	fi
	install "${missing[@]}" || die "apt-get could not install ${missing[*]}; its output is above."
	mapfile -t missing < <(missing_packages | tr ' ' '\n')
	((${#missing[@]} == 0)) || die "still missing after apt-get: ${missing[*]}"
fi
echo "setup: Go $go_version, C compiler, SoftHSM ($(softhsm_module)) and OpenSSL are there"
