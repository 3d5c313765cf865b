#!/bin/sh
# The campaigns: hours rather than minutes. Each line names one, its command and the row it proves. Without an argument all
# run; with a name only that one. When each last ran, on which commit and how it ended is kept in out/campaigns.tsv and
# printed at the end.
set -u
cd "$(dirname "$0")/.."
bin=target/release
mkdir -p out
record=out/campaigns.tsv
touch "$record"
failed=0

campaign() {
	name=$1
	shift
	if [ -n "$only" ] && [ "$only" != "$name" ]; then
		return
	fi
	printf '\n== %s: %s\n' "$name" "$*"
	if "$@"; then result=passed; else
		result=FAILED
		failed=1
	fi
	grep -v "^$name	" "$record" >"$record.new" || true
	commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
	printf '%s\t%s\t%s\t%s\n' "$name" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$commit" "$result" >>"$record.new"
	mv "$record.new" "$record"
}

only=${1:-}
campaign simulator "$bin/sim" --seeds 10000
campaign mutants "$bin/mutants"
campaign fuzz "$bin/fuzz" all --seconds 60
campaign kills "$bin/crash" --kills 500
campaign peers "$bin/peers"
campaign powercut make -s -f sysimage/kernel.mk powercut
campaign rows make -s bench

printf '\ncampaign\tlast run\tcommit\tresult\n'
for name in simulator mutants fuzz kills peers powercut rows; do
	grep "^$name	" "$record" || printf '%s\tnever\n' "$name"
done
exit $failed
