#!/usr/bin/env bash
# dev.sh start: leaves a dev Vault running with the engine enabled at mpc/ and
#               a fresh SoftHSM token configured; prints how to use and stop it.
# dev.sh stop [--quiet]: stops it and removes its folder.
# State is kept in bin/dev.state: one line with process ID, its start time,
# the system's boot ID (process IDs mean nothing after a restart) and folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/softhsm.sh
source scripts/softhsm.sh
# shellcheck source=scripts/devserver.sh
source scripts/devserver.sh

state=bin/dev.state
plugin=bin/plugins/vault-plugin-secrets-mpc

running() {
	local boot
	[[ -f "$state" ]] || return 1
	read -r DEV_PID DEV_START boot DEV_DIR <"$state"
	[[ "$boot" == "$(</proc/sys/kernel/random/boot_id)" ]] || DEV_PID=
	[[ -n "$DEV_PID" && "$(process_start "$DEV_PID" || true)" == "$DEV_START" ]]
}

usage_lines() {
	local vault=$1
	echo
	echo "A dev Vault is running (process $DEV_PID). Everything in it is gone when it stops."
	echo "To use it in this shell:"
	echo
	echo "  source $DEV_DIR/env"
	echo
	sed 's/^/  /' "$DEV_DIR/env"
	echo
	echo "  vault write mpc/accounts/alice algorithm=bip340-secp256k1 threshold=2 shares=3"
	echo "  vault write mpc/sign/alice input=\$(printf hello | base64)"
	echo
	echo "Log:  $DEV_DIR/vault.log"
	echo "Stop: make dev-stop"
	[[ "$vault" == "$(command -v vault || true)" ]] || echo "(the vault command is $vault; the lines above put it on PATH)"
}

start() {
	local vault
	vault=$(scripts/vault.sh)
	if running; then
		echo "dev: already running" >&2
		usage_lines "$vault"
		return
	fi
	DEV_DIR='' DEV_PID=''
	mkdir -p bin
	trap 'failed' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	devserver_start "$vault" "$plugin" "v${VERSION:-0.1.0}"
	# What the pages for approvers answer with; Vault passes on what is named.
	"$vault" secrets enable -path=mpc \
		-allowed-response-headers=Content-Security-Policy \
		-allowed-response-headers=X-Content-Type-Options \
		-allowed-response-headers=X-Frame-Options \
		-allowed-response-headers=Referrer-Policy \
		-allowed-response-headers=Permissions-Policy \
		-allowed-response-headers=Cache-Control mpc
	"$vault" write mpc/config/hsm uri='pkcs11:token=demo?module-name=softhsm' pin=@"$DEV_DIR/pin"
	(
		umask 077
		# shellcheck disable=SC2016 # $PATH is for the shell that reads the file
		printf 'export VAULT_ADDR=%q\nexport VAULT_TOKEN=%q\nexport HSM_PIN_FILE=%q\nexport PATH=%q:$PATH\n' \
			"$VAULT_ADDR" "$VAULT_TOKEN" "$DEV_DIR/pin" "$(dirname "$vault"):$PWD/bin:$PWD/bin/plugins" >"$DEV_DIR/env"
	)
	printf '%s %s %s %s\n' "$DEV_PID" "$DEV_START" "$(</proc/sys/kernel/random/boot_id)" "$DEV_DIR" >"$state"
	trap - EXIT
	usage_lines "$vault"
}

failed() {
	local code=$?
	trap - EXIT
	if [[ -n "$DEV_DIR" && -f "$DEV_DIR/vault.log" ]]; then
		echo "dev: failed; Vault's log ends so:" >&2
		tail -n 20 "$DEV_DIR/vault.log" >&2
	fi
	devserver_stop || true
	exit "$code"
}

stop() {
	local faulty=0
	if ! [[ -f "$state" ]]; then
		[[ "${1:-}" == --quiet ]] || echo "dev: not running"
		return
	fi
	running || echo "dev: Vault is gone already, cleaning up" >&2
	# The folder's name is checked, since it is about to be removed.
	[[ "$(basename "$DEV_DIR")" == vault-mpc.* ]] || { echo "dev: $state is damaged; remove it by hand" >&2; exit 1; }
	devserver_stop || faulty=1
	rm -f "$state"
	echo "dev: stopped"
	return "$faulty"
}

case "${1:-}" in
start) start ;;
stop) stop "${2:-}" ;;
*) echo "usage: dev.sh start | stop [--quiet]" >&2; exit 2 ;;
esac
