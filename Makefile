# Two commands for a newcomer: `make demo` and `make test`. Both work from a fresh clone; what they need
# beside Rust and a C toolchain is found or installed by scripts/parts.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# One profile for everything: the dependencies are compiled once.
PROFILE := --release
KAFKA ?= embedded
DEMO_ARGS ?=
# Of bench-relay: pairs of drains per shape; rows per transaction and rows in all of each shape;
# congestion controls; where the report goes; further arguments, such as --check.
PAIRS ?= 7
ROWS ?= 1000000
SHAPES ?= 100:$(ROWS),1:$(shell echo $$(($(ROWS) / 2)))
CONTROLS ?= machine,cubic
OUT ?= docs/bench-relay.md
BENCH_ARGS ?=
# Of bench-consumer: runs of each case, and where the report goes.
CONSUMER_PAIRS ?= 7
CONSUMER_OUT ?= docs/bench-consumer.md

.PHONY: help build demo test all lint unit servers prove bench-relay bench-consumer deny clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 16

build: ## The relay, at target/release/outbox-relay
	@scripts/parts build >/dev/null
	$(CARGO) build $(PROFILE) --locked -p outbox-relay

demo: ## The whole path, live, with a verdict at the end (KAFKA=real for a real broker)
	@scripts/parts build >/dev/null
	$(CARGO) build $(PROFILE) --locked -p outbox-relay -p outbox-demo
ifeq ($(KAFKA),real)
	@scripts/parts postgres kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked --quiet -p outbox-tests --bin with-kafka -- target/release/outbox-demo $(DEMO_ARGS)
else
	@scripts/parts postgres >/dev/null
	target/release/outbox-demo $(DEMO_ARGS)
endif

test: lint unit servers ## Everything CI runs, in less than 20 minutes

# All targets of the whole workspace in one command: with fewer selected, cargo would compile the
# dependencies again with other features.
all:
	@scripts/parts build >/dev/null
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets

lint: ## Format and clippy, warnings are errors
	@scripts/parts build >/dev/null
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets -- -D warnings

unit: all ## Tests that need no server
	$(CARGO) test $(PROFILE) --locked --workspace --lib --bins
	$(CARGO) test $(PROFILE) --locked --workspace --doc

servers: all ## Tests against real PostgreSQL and real Kafka
	@scripts/parts all >/dev/null
	$(CARGO) test $(PROFILE) --locked --workspace --test servers -- --test-threads=2

prove: all ## The full counts; writes docs/proof.md (at most 90 minutes)
	@scripts/parts all >/dev/null
	scripts/prove

bench-relay: all ## The relay against pg_recvlogical; writes docs/bench-relay.md (at most 15 minutes)
	@scripts/parts postgres-all kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked --quiet -p outbox-tests --bin bench-relay -- \
		--pairs $(PAIRS) --shapes $(SHAPES) --cc $(CONTROLS) --out $(OUT) $(BENCH_ARGS)

# The consumer's code is compiled into the program that uses it, which for tests is optimised little.
bench-consumer: ## The consumer against a bare poll loop and pgbench; writes docs/bench-consumer.md (at most 15 minutes)
	@scripts/parts build postgres-all kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked --quiet --config 'profile.release.package.outbox-tests.opt-level=3' \
		-p outbox-tests --bin bench-consumer -- --pairs $(CONSUMER_PAIRS) --out $(CONSUMER_OUT) $(BENCH_ARGS)

deny: ## Licences, sources and advisories (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny check

clean: ## Build output and parts
	$(CARGO) clean
	rm -rf .parts
