#!/usr/bin/env bash
# fuzz.sh [TIME]: runs every fuzz target of the module for TIME (default 20s)
# each. Fails when it finds none: a scan that finds nothing tests nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-20s}
found=0
while IFS=: read -r file target; do
	found=$((found + 1))
	echo "fuzz: $target in $(dirname "$file") for $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")"
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sort |
	sed -E 's#^\./##; s/func (Fuzz[A-Za-z0-9_]*)\(/\1/')
if ((found == 0)); then
	echo "fuzz: no fuzz target found" >&2
	exit 1
fi
echo "fuzz: $found targets passed"
