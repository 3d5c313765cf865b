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
step "$bin/fuzz" all --seconds "${FUZZ_SECONDS:-10}"
step "$bin/crash" --kills "${KILLS:-20}"
step "$bin/ringbench" show engine.m
