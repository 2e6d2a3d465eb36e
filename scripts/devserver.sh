# shellcheck shell=bash
# Sourced, not run: starts and stops a dev Vault with the engine registered the
# way a production server has it (SHA-256, version, environment), in a private
# temporary folder. Needs softhsm.sh.
#
# devserver_start sets:
#   DEV_DIR        the private folder: token, plugin copy, configuration, log
#   DEV_PID        Vault's process ID, also the ID of its process group
#   DEV_START      its start time in clock ticks (/proc/PID/stat, field 22)
#   VAULT_ADDR, VAULT_TOKEN   exported

DEV_DIR=
DEV_PID=
DEV_START=

# process_start PID prints the process's start time; with the ID it names a
# process for good, an ID alone may be used again. Zombies count as gone.
process_start() {
	local stat
	# The name in parentheses may hold spaces: cut up to the last one.
	# Braces: 2>/dev/null must cover a failing open, too. Not $(<file): when the
	# file is gone, bash 5.2 exits there under set -e, even in a condition.
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	stat=${stat##*) }
	# shellcheck disable=SC2086 # split on purpose: fields 3 and later
	set -- $stat
	[[ "$1" != Z ]] || return 1
	printf '%s\n' "${20}"
}

# group_members PGID prints the living processes of a process group. Vault's
# plugin and the plugin's nodes stay in Vault's group, also as orphans.
group_members() {
	local dir stat
	for dir in /proc/[0-9]*; do
		{ read -r stat <"$dir/stat"; } 2>/dev/null || continue
		stat=${stat##*) }
		# shellcheck disable=SC2086
		set -- "$1" $stat
		if [[ "$2" != Z && "$4" == "$1" ]]; then
			printf '%s\n' "${dir#/proc/}"
		fi
	done
}

# descends_from PID ANCESTOR: whether PID is a child, grandchild, … of ANCESTOR.
descends_from() {
	local pid=$1 stat
	while ((pid > 1)); do
		((pid != $2)) || return 0
		{ read -r stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
		stat=${stat##*) }
		read -r _ pid _ <<<"$stat"
	done
	return 1
}

port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port prints a loopback port that is free together with the next one,
# which a dev server takes as its cluster address.
free_port() {
	local port tries
	for ((tries = 0; tries < 50; tries++)); do
		port=$((20000 + RANDOM % 12000))
		if port_free "$port" && port_free $((port + 1)); then
			printf '%s\n' "$port"
			return 0
		fi
	done
	echo "dev server: no free port found on 127.0.0.1" >&2
	return 1
}

# devserver_start VAULT PLUGIN VERSION: see the top of this file. On failure it
# prints why; the caller's cleanup calls devserver_stop in every case.
devserver_start() {
	local vault=$1 plugin=$2 version=$3 module port tries name
	name=$(basename "$plugin")
	[[ -x "$plugin" ]] || { echo "dev server: $plugin is missing; run make build" >&2; return 1; }
	module=$(softhsm_module) || return 1

	DEV_DIR=$(mktemp -d "${TMPDIR:-/tmp}/vault-mpc.XXXXXXXX") # mktemp makes it 0700
	mkdir "$DEV_DIR/plugins" "$DEV_DIR/home"
	cp "$plugin" "$DEV_DIR/plugins/$name"
	softhsm_token "$DEV_DIR" demo || return 1
	# raw_storage_endpoint shows what lies in storage (sys/raw). Never switch it
	# on in production.
	cat >"$DEV_DIR/vault.hcl" <<-HCL
		plugin_directory = "$DEV_DIR/plugins"
		raw_storage_endpoint = true
		disable_mlock = true
		log_level = "debug"
	HCL
	VAULT_TOKEN=$(random_hex 16)
	export VAULT_TOKEN
	# Settings of the caller's own Vault must not leak into this one.
	unset VAULT_NAMESPACE VAULT_CACERT VAULT_CAPATH VAULT_CLIENT_CERT VAULT_CLIENT_KEY VAULT_FORMAT VAULT_SKIP_VERIFY VAULT_AGENT_ADDR VAULT_WRAP_TTL

	for tries in 1 2 3; do
		port=$(free_port) || return 1
		export VAULT_ADDR=http://127.0.0.1:$port
		# setsid: a process group of its own, so that Ctrl-C reaches only the
		# script, which then ends Vault in order. The token travels in the
		# environment: arguments are readable by every user of the host.
		HOME=$DEV_DIR/home VAULT_DEV_ROOT_TOKEN_ID=$VAULT_TOKEN \
			setsid "$vault" server -dev -dev-no-store-token -dev-listen-address="127.0.0.1:$port" \
			-config="$DEV_DIR/vault.hcl" </dev/null >"$DEV_DIR/vault.log" 2>&1 &
		DEV_PID=$!
		DEV_START=$(process_start "$DEV_PID" || true)
		if devserver_wait "$vault"; then
			devserver_register "$vault" "$name" "$version" "$module"
			return
		fi
		devserver_stop_processes
		grep -q 'address already in use' "$DEV_DIR/vault.log" || break
	done
	echo "dev server: Vault did not start; its log ends so:" >&2
	tail -n 20 "$DEV_DIR/vault.log" >&2
	return 1
}

# devserver_wait waits up to 60 s until Vault answers to its root token.
devserver_wait() {
	local port=${VAULT_ADDR##*:} deadline=$((SECONDS + 60))
	while ((SECONDS < deadline)); do
		process_start "$DEV_PID" >/dev/null || return 1
		if ! port_free "$port" && "$1" token lookup >/dev/null 2>&1; then
			# Whoever answers must be ours: the token is, and only ours knows it.
			return 0
		fi
		sleep 0.2
	done
	return 1
}

devserver_register() {
	local vault=$1 name=$2 version=$3 module=$4 sha
	sha=$(sha256sum "$DEV_DIR/plugins/$name")
	sha=${sha%% *}
	"$vault" plugin register -sha256="$sha" -version="$version" -command="$name" \
		-env="MPC_PKCS11_MODULES=softhsm=$module" \
		-env="SOFTHSM2_CONF=$DEV_DIR/softhsm2.conf" \
		secret mpc >"$DEV_DIR/register.log" 2>&1 || {
		echo "dev server: Vault refused to register the plugin:" >&2
		cat "$DEV_DIR/register.log" >&2
		return 1
	}
}

# devserver_stop_processes ends Vault and whatever is left of its process group:
# asks Vault first, waits up to 10 s, then kills. Returns 1 when something
# outlived Vault by more than 3 s, which is a fault of the plugin.
devserver_stop_processes() {
	local deadline left faulty=0
	[[ -n "$DEV_PID" && -n "$DEV_START" ]] || return 0
	if process_start "$DEV_PID" >/dev/null; then
		# An ID that now names another process says that ours, and its group,
		# are gone: the system reuses no ID of a group that still has members.
		[[ "$(process_start "$DEV_PID")" == "$DEV_START" ]] || return 0
		kill -TERM "$DEV_PID" 2>/dev/null || true
		deadline=$((SECONDS + 10))
		while process_start "$DEV_PID" >/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
		if process_start "$DEV_PID" >/dev/null; then
			kill -KILL "$DEV_PID" 2>/dev/null || true
		fi
	fi
	deadline=$((SECONDS + 4)) # whole seconds only: at least 3
	while left=$(group_members "$DEV_PID") && [[ -n "$left" ]] && ((SECONDS < deadline)); do sleep 0.1; done
	if [[ -n "$left" ]]; then
		echo "dev server: processes outlived Vault by 3 s, killing them:" >&2
		for pid in $left; do
			printf '  %s %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || true)" >&2
			kill -KILL "$pid" 2>/dev/null || true
		done
		faulty=1
	fi
	DEV_PID=
	return "$faulty"
}

# devserver_stop ends everything and removes the folder. MPC_KEEP=1 keeps it.
devserver_stop() {
	local faulty=0
	devserver_stop_processes || faulty=1
	if [[ -n "$DEV_DIR" && "${MPC_KEEP:-}" == 1 ]]; then
		echo "kept: $DEV_DIR" >&2
	elif [[ -n "$DEV_DIR" ]]; then
		rm -rf -- "$DEV_DIR"
	fi
	DEV_DIR=
	return "$faulty"
}
