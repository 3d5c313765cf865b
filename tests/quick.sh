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
step "$bin/fuzz" all --seed 1 --seconds "${FUZZ_SECONDS:-10}"
step "$bin/crash" --kills "${KILLS:-20}"
step "$bin/ringbench" show engine.m
