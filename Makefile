# Two commands for a newcomer: `make demo` and `make test`. Both work from a fresh clone; what they need
# beside Rust and a C toolchain is found or installed by scripts/parts.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# One profile for everything: the dependencies are compiled once.
PROFILE := --release
# What only some applications take is compiled and tested, too. The same everywhere: with other features cargo would
# compile the dependencies again.
FEATURES := --features outbox-consumer/otel
KAFKA ?= embedded
DEMO_ARGS ?=
# Where cargo puts programs.
BUILT := $(or $(CARGO_TARGET_DIR),target)/release
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
# Of bench: rounds beside the peers, where its report goes, and further arguments. SIZE=short makes small counts and one
# pair of everything, to see that it runs, at most 10 minutes, and reports under target/bench.
PEER_PAIRS ?= 5
PEERS_OUT ?= docs/bench.md
PEER_ARGS ?=
SIZE ?= full
ifeq ($(SIZE),short)
bench: PAIRS = 1
bench: ROWS = 100000
bench: CONTROLS = machine
bench: CONSUMER_PAIRS = 1
bench: PEER_PAIRS = 1
bench: RELAY_ARGS = --latency-runs 1 --latency-seconds 5
bench: CONSUMER_ARGS = --quick
bench: PEER_ARGS += --quick
bench: OUT = target/bench/bench-relay.md
bench: CONSUMER_OUT = target/bench/bench-consumer.md
bench: PEERS_OUT = target/bench/bench.md
endif
# Of chaos: how long faults are made, the seed (drawn where there is none), kinds of fault with commas between (all where
# there are none; `list` lists them), and further arguments, such as --rate 60 or --out-json run.json.
DURATION ?= 10m
SEED ?=
FAULTS ?=
CHAOS_ARGS ?=

.PHONY: help build demo test all lint unit servers prove chaos bench bench-relay bench-messages bench-consumer bench-peers deny clean

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
	$(CARGO) run $(PROFILE) --locked --quiet -p outbox-tests --bin with-kafka -- $(BUILT)/outbox-demo $(DEMO_ARGS)
else
	@scripts/parts postgres >/dev/null
	$(BUILT)/outbox-demo $(DEMO_ARGS)
endif

test: lint unit servers ## Everything CI runs, in less than 20 minutes

# All targets of the whole workspace in one command: with fewer selected, cargo would compile the
# dependencies again with other features.
all:
	@scripts/parts build >/dev/null
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets $(FEATURES)

lint: ## Format and clippy, warnings are errors
	@scripts/parts build >/dev/null
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets $(FEATURES) -- -D warnings

unit: all ## Tests that need no server
	$(CARGO) test $(PROFILE) --locked --workspace $(FEATURES) --lib --bins
	$(CARGO) test $(PROFILE) --locked --workspace $(FEATURES) --doc

servers: all ## Tests against real PostgreSQL and real Kafka
	@scripts/parts all >/dev/null
	CARGO=$(CARGO) scripts/servers --test-threads=3 --skip chaos::
	CARGO=$(CARGO) scripts/servers chaos::

prove: all ## The full counts; writes docs/proof.md and docs/mutants.md (at most 90 minutes)
	@scripts/parts all >/dev/null
	scripts/prove

# In this order, since the last one's report takes over the ratios of the others.
bench: ## Relay and consumer against all baselines and peers; writes docs/bench.md (90 minutes; SIZE=short 10)
	@mkdir -p $(dir $(OUT) $(CONSUMER_OUT) $(PEERS_OUT))
	$(MAKE) bench-relay PAIRS=$(PAIRS) ROWS=$(ROWS) CONTROLS=$(CONTROLS) OUT=$(OUT) BENCH_ARGS="$(RELAY_ARGS) $(BENCH_ARGS)"
	$(MAKE) bench-consumer CONSUMER_PAIRS=$(CONSUMER_PAIRS) CONSUMER_OUT=$(CONSUMER_OUT) \
		BENCH_ARGS="$(CONSUMER_ARGS) $(BENCH_ARGS)"
	$(MAKE) bench-peers PEER_PAIRS=$(PEER_PAIRS) OUT=$(OUT) CONSUMER_OUT=$(CONSUMER_OUT) PEERS_OUT=$(PEERS_OUT) \
		PEER_ARGS="$(PEER_ARGS)"

chaos: all ## The whole product under faults of every kind, and a judge (DURATION, SEED, FAULTS)
	@scripts/parts all >/dev/null
	$(CARGO) run $(PROFILE) --locked $(FEATURES) --quiet -p outbox-tests --bin chaos -- --duration $(DURATION) \
		$(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(CHAOS_ARGS)

bench-relay: all ## The relay against pg_recvlogical; writes docs/bench-relay.md (at most 15 minutes)
	@scripts/parts postgres-all kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked $(FEATURES) --quiet -p outbox-tests --bin bench-relay -- \
		--pairs $(PAIRS) --shapes $(SHAPES) --cc $(CONTROLS) --out $(OUT) $(BENCH_ARGS)

bench-messages: all ## A backlog of messages beside one of rows; writes docs/bench-messages.md (at most 5 minutes)
	@scripts/parts postgres-all kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked $(FEATURES) --quiet -p outbox-tests --bin bench-relay -- \
		--pairs $(PAIRS) --shapes $(SHAPES) --messages $(BENCH_ARGS)

# The consumer's code is compiled into the program that uses it, which for tests is optimised little.
OPTIMISED := --config 'profile.release.package.outbox-tests.opt-level=3'

bench-consumer: ## The consumer against a bare poll loop and pgbench; writes docs/bench-consumer.md (at most 15 minutes)
	@scripts/parts build postgres-all kafka >/dev/null
	$(CARGO) run $(PROFILE) --locked --quiet $(OPTIMISED) \
		-p outbox-tests --bin bench-consumer -- --pairs $(CONSUMER_PAIRS) --out $(CONSUMER_OUT) $(BENCH_ARGS)

bench-peers: all ## The same beside Debezium, Parallel Consumer and Spring Kafka; writes docs/bench.md (at most 60 minutes)
	@scripts/parts postgres-all kafka peers >/dev/null
	$(CARGO) run $(PROFILE) --locked --quiet $(OPTIMISED) \
		-p outbox-tests --bin bench-peers -- --pairs $(PEER_PAIRS) --relay $(OUT:.md=.json) \
		--consumer $(CONSUMER_OUT:.md=.json) --out $(PEERS_OUT) $(PEER_ARGS)

deny: ## Licences, sources and advisories (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny check

clean: ## Build output and parts
	$(CARGO) clean
	rm -rf .parts
