#!/usr/bin/env bash
# staticcheck.sh PACKAGE@VERSION ARGS…: runs staticcheck. A machine that cannot
# download the module says so plainly instead of looking checked; every other
# failure fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tool=$1
shift
module=${tool%%/cmd/*}
version=${tool##*@}
if ! reason=$(go mod download "$module@$version" 2>&1); then
	echo "staticcheck: NOT CHECKED: $module@$version could not be downloaded: $reason" >&2
	exit 0
fi
echo "go run $tool $*"
go run "$tool" "$@"
