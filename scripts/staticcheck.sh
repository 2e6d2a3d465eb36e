#!/usr/bin/env bash
# staticcheck.sh PACKAGE@VERSION ARGS…: runs staticcheck. A machine that cannot
# download the module says so plainly instead of looking checked; every other
# failure fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tool=$1
shift
if ! reason=$(go run "$tool" -version 2>&1); then
	echo "$reason" >&2
	if grep -qE '^go: .*(dial tcp|no such host|timeout|connection (refused|reset)|proxyconnect|tls: |Forbidden|Not Found|Gone|Bad Gateway|Service Unavailable)' <<<"$reason"; then
		echo "staticcheck: NOT CHECKED: $tool could not be downloaded" >&2
		exit 0
	fi
	exit 1
fi
echo "go run $tool $*"
go run "$tool" "$@"
