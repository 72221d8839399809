# Two commands for a newcomer: `make run` and `make test`. Each looks at the machine, sets up what it needs
# (system packages by apt-get, tools in target/tools), and leaves nothing running.
#
#   make run            build, start everything on this machine, play the story, stay until Ctrl-C
#   make run ONCE=1     end after the story, with exit code 0 only if every step held
#   make test           every test, against a real Apache Kafka; T='...' goes to cargo nextest
#   make check          format, lints, licences and bans, documentation, .proto files, examples
#   make bench          the vault against its ceilings: a table, and JSON; QUICK=1 takes under five minutes
#   make setup          all set-up at once
#   make clean          remove what was built

SHELL := /bin/bash
export PATH := $(CURDIR)/target/tools/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup build run test check bench clean
.PHONY: check-format check-lints check-supply check-docs check-proto check-examples

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup.sh all

# The dev profile, for run and test alike. Asking for one test makes cargo choose every dependency's features as
# it does for the tests; without it, whoever runs first and tests then would compile most of them twice.
build:
	@cargo build --locked --workspace --bins --test arrows

run:
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory build
	@target/debug/cloakroom dev $(if $(filter-out 0 no false,$(ONCE)),--once)

test:
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@scripts/test.sh $(T)

check:
	@scripts/setup.sh check
	@$(MAKE) --no-print-directory check-format check-proto check-examples check-supply check-lints check-docs

check-format:
	cargo fmt --all --check

check-lints:
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

check-supply:
	@scripts/supply.sh

check-docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

check-proto:
	buf lint

check-examples:
	python3 -B examples/orders/generate.py --check examples/orders/orders.csv

# The release profile, which nothing else here builds: the first time takes as long as everything else.
bench:
	@scripts/setup.sh run
	@cargo build --locked --release -p cloakroom-vault -p cloakroom-load-tests
	@target/release/cloakroom-load bench $(if $(filter-out 0 no false,$(QUICK)),--quick)

clean:
	cargo clean
	rm -rf run
