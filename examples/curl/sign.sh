#!/usr/bin/env bash
# Makes a threshold account, signs a message with it over plain HTTP and lets
# OpenSSL verify the signature. Needs curl, openssl, base64 and sed.
#
# VAULT_ADDR and VAULT_TOKEN say which Vault; also MPC_MOUNT (default: mpc),
# VAULT_NAMESPACE and VAULT_CACERT are read.
set -euo pipefail

die() { printf 'sign.sh: %s\n' "$*" >&2; exit 1; }

if (($# != 2)) || [[ ! "$1" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
	die 'usage: sign.sh ACCOUNT MESSAGE'
fi
: "${VAULT_ADDR:?is not set}" "${VAULT_TOKEN:?is not set}"
account=$1 message=$2 mount=${MPC_MOUNT:-mpc}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# post PATH JSON prints the answer. Token and body go through files, since other
# users of this machine see the arguments of commands.
post() {
	local status args=(--silent --show-error --max-time 65 --output "$dir/answer" --write-out '%{http_code}')
	[[ -z "${VAULT_CACERT:-}" ]] || args+=(--cacert "$VAULT_CACERT")
	{
		printf 'X-Vault-Token: %s\n' "$VAULT_TOKEN"
		[[ -z "${VAULT_NAMESPACE:-}" ]] || printf 'X-Vault-Namespace: %s\n' "$VAULT_NAMESPACE"
	} >"$dir/headers"
	printf '%s' "$2" >"$dir/body"
	status=$(curl "${args[@]}" --header "@$dir/headers" --data-binary "@$dir/body" "${VAULT_ADDR%/}/v1/$mount/$1") ||
		die "$VAULT_ADDR cannot be reached"
	[[ "$status" == 200 ]] || die "$1: status $status: $(cat "$dir/answer")"
	cat "$dir/answer"
}

# text NAME prints a field of the answer on standard input: a text without quotes
# in it, with the escapes of JSON that PEM has. Use jq for anything more.
text() { printf '%b' "$(sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p")"; }

post "accounts/$account" '{"algorithm":"ecdsa-p256","threshold":2,"shares":3}' >"$dir/account"
text public_key <"$dir/account" >"$dir/key.pem"
echo "account    $account"

# The same request_id gets the same signature for a day: this may be repeated.
printf '%s' "$message" >"$dir/message"
request_id=$(openssl rand -hex 16)
post "sign/$account" "{\"input\":\"$(base64 -w0 <"$dir/message")\",\"request_id\":\"$request_id\"}" >"$dir/signed"
signature=$(text signature <"$dir/signed")
echo "signature  $signature"

base64 -d <<<"$signature" >"$dir/signature"
verified=$(openssl dgst -sha256 -verify "$dir/key.pem" -signature "$dir/signature" "$dir/message") || die "openssl: $verified"
echo "openssl    $verified"
