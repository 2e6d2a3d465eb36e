#!/usr/bin/env bash
# fuzz.sh [TIME]: runs every fuzz target of the module for TIME (default 20s)
# each, one after another, and prints a table of what ran. It finds targets by
# itself, fails when there are none (a scan that finds nothing tests nothing) and
# when one crashes; the input that did it is then in the package's testdata/fuzz.
# FUZZ=REGEXP runs only the targets whose "package.Name" matches.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-20s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
table=()
failed=0

while IFS=: read -r file target; do
	package=$(dirname "$file")
	[[ "$package.$target" =~ ${FUZZ:-.} ]] || continue
	echo "fuzz: $target in $package for $time"
	seeds=$({ find "$package/testdata/fuzz/$target" -type f 2>/dev/null || true; } | wc -l)
	# A target may need some time before its first input; one that tried none
	# gets a minute.
	for limit in "$time" 60s; do
		result=ok
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$limit" "./$package" >"$log" 2>&1 || result=FAILED
		# On a busy machine the go command may call the end of the fuzzing time
		# itself a failure. A real one names its input.
		if [[ $result == FAILED ]] && grep -q '^ *context deadline exceeded$' "$log" &&
			! grep -qE 'Failing input written|failure while testing seed|panic:' "$log"; then
			result=ok
		fi
		# The last progress line: "fuzz: elapsed: 5s, execs: 1234 (246/sec), new
		# interesting: 3 (total: 20)".
		last=$(grep -E '^fuzz: elapsed: .*execs: ' "$log" | tail -n 1 || true)
		execs=$(sed -E 's/.*execs: ([0-9]+).*/\1/' <<<"${last:-execs: 0}")
		new=$(sed -E 's/.*new interesting: ([0-9]+).*/\1/' <<<"${last:-new interesting: 0}")
		((execs == 0)) || break
		result="FAILED: no input was tried"
	done
	if [[ $result != ok ]]; then
		failed=$((failed + 1))
		cat "$log" >&2
	fi
	table+=("$(printf '%-18s %-26s %6s %10s %6s  %s' "$package" "$target" "$seeds" "$execs" "$new" "$result")")
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' . | sort |
	sed -E 's#^\./##; s/func (Fuzz[A-Za-z0-9_]*)\(/\1/')

if ((${#table[@]} == 0)); then
	echo "fuzz: no fuzz target found" >&2
	exit 1
fi
printf '\n%-18s %-26s %6s %10s %6s  %s\n' PACKAGE TARGET CORPUS EXECUTIONS NEW RESULT
printf '%s\n' "${table[@]}"
if ((failed > 0)); then
	echo "fuzz: $failed of ${#table[@]} targets failed" >&2
	exit 1
fi
echo "fuzz: ${#table[@]} targets passed, $time each"
