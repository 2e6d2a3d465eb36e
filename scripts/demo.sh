#!/usr/bin/env bash
# A tour of the engine on a real Vault with a real PKCS#11 token (SoftHSM):
# every line that starts with $ is run as shown. Ends every process it starts,
# also on failure and on Ctrl-C. MPC_KEEP=1 keeps the folder with Vault's log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/softhsm.sh
source scripts/softhsm.sh
# shellcheck source=scripts/devserver.sh
source scripts/devserver.sh

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi

step=0
title() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$off"; }
note() { printf '%s   %s%s\n' "$dim" "$*" "$off"; }
die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }

# show ARGS… prints a command the way one would type it.
show() {
	local word line='$'
	for word in "$@"; do
		case $word in
		*[!A-Za-z0-9_./:=@%+,-]*) word="'$word'" ;;
		esac
		line+=" $word"
	done
	printf '\n%s%s%s\n' "$bold" "${line//$DEV_DIR/\$DIR}" "$off"
}

# answer prints what a command printed, long lines cut.
answer() { [[ -z "$out" ]] || awk 'length($0) > 160 { $0 = substr($0, 1, 157) "..." } { print }' <<<"$out"; }

# run ARGS… shows a command, runs it, and keeps what it printed in $out.
run() {
	show "$@"
	out=$("$@" 2>&1) || { printf '%s\n' "$out"; die "the command above failed"; }
	answer
}

vault() { "$vault_bin" "$@"; }

# field NAME reads one field from the table in $out.
field() { awk -v name="$1" '$1 == name { sub(/^[^ ]+ +/, ""); print; exit }' <<<"$out"; }

finish() {
	local code=$?
	trap - EXIT
	trap '' INT TERM # a second Ctrl-C must not interrupt the clean-up
	if ((code != 0)) && [[ -n "$DEV_DIR" && -f "$DEV_DIR/vault.log" ]]; then
		printf "\ndemo: stopped with code %d; Vault's log ends so:\n" "$code" >&2
		tail -n 25 "$DEV_DIR/vault.log" >&2
	fi
	if ! devserver_stop; then
		((code != 0)) || code=1
	fi
	if ((code == 0)); then
		printf '\n%sDone.%s Vault, the plugin and all nodes have ended. To try it yourself: make dev\n' "$bold" "$off"
	fi
	exit "$code"
}

# sign_and_verify ACCOUNT: both must succeed, and verify must say true.
sign_and_verify() {
	local account=$1 signature
	sign "$account"
	signature=$(field signature)
	[[ -n "$signature" ]] || die "the answer has no signature"
	signers=$(field signers)
	run vault write "mpc/verify/$account" input="$input" signature="$signature"
	[[ "$(field valid)" == true ]] || die "the signature of $account does not verify"
}

# sign ACCOUNT: for ECDSA, nodes first make auxiliary keys, once in their life
# (tens of seconds on two cores). Until then Vault answers with a 4xx that says
# so, and the client asks again.
sign() {
	local account=$1 deadline=$((SECONDS + 300)) waited=0
	show vault write "mpc/sign/$account" input="$input"
	until out=$(vault write "mpc/sign/$account" input="$input" 2>&1); do
		if ! grep -qi 'auxiliary' <<<"$out" || ((SECONDS >= deadline)); then
			printf '%s\n' "$out"
			die "signing with $account failed"
		fi
		((waited)) || printf '%s\n' "$out"
		waited=1
		note "asking again in 5 s"
		sleep 5
	done
	answer
}

# all_keys PATH lists every key below a path of Vault's raw storage.
all_keys() {
	local key
	while read -r key; do
		if [[ "$key" == */ ]]; then all_keys "$1$key"; else printf '%s%s\n' "$1" "$key"; fi
	done < <(vault list -format=yaml "$1" | sed -n 's/^- //p' | tr -d '"')
}

vault_bin=$(scripts/vault.sh)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
input=$(printf 'pay 10 to bob' | base64)
out='' signers=''

title "A dev Vault with a fresh SoftHSM token; the plugin is registered by its SHA-256"
devserver_start "$vault_bin" "$PWD/bin/plugins/vault-plugin-secrets-mpc" "v${VERSION:-0.1.0}"
note "$("$vault_bin" version), process $DEV_PID; \$DIR is $DEV_DIR"
run vault plugin info -version="v${VERSION:-0.1.0}" secret mpc
run vault secrets enable -path=mpc mpc

title "Name the token. The PIN is read from a file, checked once, and cannot be read back"
run vault write mpc/config/hsm uri='pkcs11:token=demo?module-name=softhsm' pin=@"$DEV_DIR/pin"
run vault read mpc/config/hsm
run vault list mpc/nodes

title "Four accounts, one of each kind; any 2 of 3 shares sign. No process ever holds a whole key"
run vault write mpc/accounts/alice algorithm=bip340-secp256k1 threshold=2 shares=3
run vault write mpc/accounts/carol algorithm=ed25519 threshold=2 shares=3
run vault write mpc/accounts/bob algorithm=ecdsa-secp256k1 threshold=2 shares=3
run vault write mpc/accounts/dave algorithm=ecdsa-p256 threshold=2 shares=3

title "Sign and verify, BIP-340 (Bitcoin Taproot)"
note "the input is base64 of: pay 10 to bob"
sign_and_verify alice

title "Sign and verify, Ed25519"
sign_and_verify carol

title "A child of alice's key (BIP-32), with the Taproot tweak of BIP-86; the nodes sign for it"
run vault write mpc/accounts/alice/derive derivation_path=m/0/7 taproot_tweak=bip86
child=$(field public_key_hex)
run vault write mpc/sign/alice input="$input" derivation_path=m/0/7 taproot_tweak=bip86
[[ -n "$child" && "$(field public_key)" == "$child" ]] || die "the signature is not of the child's key"

title "Sign and verify, ECDSA on secp256k1 (Ethereum, Bitcoin) and P-256"
sign_and_verify bob
sign_and_verify dave

title "ECDSA with presignatures: all but the last step is done ahead, in the nodes' memory"
run vault write mpc/accounts/bob presign=1
for ((i = 0; i < 240; i++)); do
	[[ "$(vault read -field=presignatures mpc/accounts/bob)" == 0 ]] || break
	sleep 0.5
done
sign_and_verify bob

title "What Vault says about an account"
run vault read mpc/accounts/alice
key_before=$(field public_key_hex)
epoch_before=$(field share_epoch)
[[ -n "$key_before" && -n "$epoch_before" ]] || die "the account shows no public_key_hex or no share_epoch"

title "Kill a node that signed last; the others go on, and it comes back"
victim=$(grep -oE '[a-z]+-[0-9]+' <<<"$signers" | head -n 1) || true
victim=${victim:-local-1}
run vault read "mpc/nodes/$victim"
pid=$(field pid)
[[ "$pid" =~ ^[0-9]+$ ]] || die "mpc/nodes/$victim shows no pid"
descends_from "$pid" "$DEV_PID" || die "process $pid is not below Vault's process $DEV_PID"
run kill -KILL "$pid"
sign_and_verify alice
sign_and_verify bob
deadline=$((SECONDS + 30))
until new_pid=$(vault read -field=pid "mpc/nodes/$victim" 2>/dev/null) && [[ "$new_pid" =~ ^[1-9][0-9]*$ && "$new_pid" != "$pid" ]]; do
	((SECONDS < deadline)) || die "$victim did not come back within 30 s"
	sleep 0.5
done
note "$victim is back as process $new_pid"

title "Refresh the shares now (it also happens every 10 minutes): old shares become useless, the key stays"
run vault write -f mpc/accounts/alice/refresh
run vault read mpc/accounts/alice
[[ "$(field public_key_hex)" == "$key_before" ]] || die "the public key changed"
[[ "$(field share_epoch)" != "$epoch_before" ]] || die "the share epoch did not change"
note "epoch $epoch_before became $(field share_epoch), the public key is the same"
sign_and_verify alice

title "What lies in Vault's storage, below Vault's own encryption: public facts and ciphertext"
run vault read -field=uuid sys/mounts/mpc
raw=sys/raw/logical/$out/
keys=$(all_keys "$raw")
entry=$(grep -m1 'accounts/alice$' <<<"$keys") || die "storage has no entry of the account alice; it has: $keys"
note "all entries of the mount:"
printf '%s\n' "${keys//$raw/   }"
show vault read -field=value "$entry"
value=$(vault read -field=value "$entry") || die "reading $entry failed"
fold -w 120 <<<"$value"
