# Every common task by name; `make help` lists them. The two that a newcomer needs are `make run` and `make test`.

CARGO   ?= cargo
PROFILE := release
BIN     := target/$(PROFILE)
STATIC  := x86_64-unknown-linux-gnu
SEEDS   ?= 1000

.DEFAULT_GOAL := help
.PHONY: help setup setup-test build run test test-long bench show mutants lint fmt dist image clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what a build needs (Debian packages; Rust itself must be there)
	@tests/setup.sh build

setup-test: ## install what the tests need besides
	@tests/setup.sh test

build: setup ## build the binaries (optimised, without link-time optimisation)
	$(CARGO) build --profile $(PROFILE) -p ringpost-mta -p ringpost-bench

run: build ## start a working mail server on loopback with a receiver beside it, and send one message through
	$(BIN)/ringpost run --dir var --sink $(BIN)/ringbench

test: setup-test ## what CI runs: unit tests, dialogs, end to end, simulator, fuzz, quick rows
	$(CARGO) build --profile $(PROFILE) --workspace --bins
	$(CARGO) test --profile $(PROFILE) --workspace --no-fail-fast
	tests/quick.sh

test-long: setup-test ## the campaigns: 10,000 seeds, 500 kills, power cuts, mutants, minutes of fuzzing
	$(CARGO) build --profile $(PROFILE) --workspace --bins
	tests/long.sh

bench: build ## measure, and write a report with plots to target/bench/report.html
	bench/adapters/fetch-postfix.sh
	for scenario in relay-4k accept-only dkim large-100k latency rcpt-1000 idle; do \
		$(BIN)/ringbench run $$scenario || true; done
	$(BIN)/ringbench report

show: ## run what proves one row and print its figure last: make show ROW=engine.a (no ROW: list them)
	@$(CARGO) build --quiet --profile $(PROFILE) --workspace --bins
	@$(BIN)/ringbench show $(ROW)

mutants: ## remove one protection at a time; the simulator must notice each
	$(CARGO) run --profile $(PROFILE) -p ringpost-tests --bin mutants

lint: ## rustfmt and clippy, no warning allowed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## format
	$(CARGO) fmt --all

dist: setup ## release binaries: static, link-time optimised
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --profile dist --target $(STATIC) \
		-p ringpost-mta -p ringpost-bench -p ringpost-sysimage
	mkdir -p dist && cp target/$(STATIC)/dist/ringpost target/$(STATIC)/dist/ringbench target/$(STATIC)/dist/sysimage dist/

image: ## compose a bootable disk image from the distribution's kernel (out/ringpost.img)
	tests/setup.sh image
	tests/image.sh out

clean: ## remove what was built; ./var stays
	$(CARGO) clean
	rm -rf out dist
