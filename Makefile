# Two commands for a newcomer: `make run` and `make test`. Each looks at the machine, sets up what it needs
# (system packages by apt-get, tools in target/tools), and leaves nothing running.
#
#   make run            build, start everything on this machine, play the story, stay until Ctrl-C
#   make run ONCE=1     end after the story, with exit code 0 only if every step held
#   make test           every test, against a real Apache Kafka; T='...' goes to cargo nextest
#   make forensic       the proof: a thousand people under the recorder, the adversary, every mutant; a table
#   make check          format, lints, licences and bans, documentation, .proto files, examples
#   make kill N=1000    kill -9 at every step of the protocol and at random, N times (default 100); SEED= plays again
#   make fuzz           every parser of outside bytes fed with what nobody meant, a minute each; SECONDS=
#   make bench          the vault against its ceilings and its peers: a table, JSON and pictures, within an hour;
#                       QUICK=1 takes under five minutes
#   make check-perf     instructions of one read against what they were; BLESS=1 writes down what they are now
#   make setup          all set-up at once
#   make clean          remove what was built

SHELL := /bin/bash
export PATH := $(CURDIR)/target/tools/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup build run test forensic check kill fuzz bench clean
.PHONY: check-perf check-format check-lints check-supply check-docs check-proto check-examples

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

# The one command that builds faults in on purpose, into its own test alone: the proof must find each of them.
forensic:
	@scripts/setup.sh test
	@cargo test --locked -p cloakroom-testkit --features mutants --test forensic -- --ignored --exact --nocapture table::the_proof

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

kill:
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@scripts/kill.sh $(if $(N),$(N),100) $(SEED)

# `make` hands SECONDS on only if it was given on the command line: the shell has one of its own.
fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(if $(filter command line,$(origin SECONDS)),$(SECONDS),60) $(T)

# The release profile, which nothing else here builds: the first time takes as long as everything else.
bench:
	@scripts/setup.sh bench
	@cargo build --locked --release -p cloakroom-vault -p cloakroom-mail -p cloakroom-affiliate -p cloakroom-load-tests
	@target/release/cloakroom-load bench $(if $(filter-out 0 no false,$(QUICK)),--quick)

# Not of `make check`: it builds the release profile.
check-perf:
	@scripts/setup.sh perf
	@scripts/perf.sh

clean:
	cargo clean
	rm -rf run
