#!/usr/bin/env bash
# Looks at what this machine has, says what is missing and what for, then installs what it may.
#
#   scripts/setup.sh run      what building and running takes
#   scripts/setup.sh check    ... and `make check`
#   scripts/setup.sh test     ... and `make test`
#   scripts/setup.sh fuzz     ... and `make fuzz`
#   scripts/setup.sh bench    ... and `make bench`
#   scripts/setup.sh perf     ... and `make check-perf`
#   scripts/setup.sh all      everything
#
# System packages come by apt-get, as root or through sudo; elsewhere the list is printed and the rest is
# yours. Tools go to target/tools, never into the system. NO_INSTALL=1 only says what would be done.
# With CI=true a machine that cannot run Apache Kafka is an error at once; on your own machine the other tests
# run and those that need it fail, saying what is missing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly GOAL="${1:-all}"
readonly TOOLS="$PWD/target/tools"
readonly BUF_VERSION=1.75.0
readonly JAVA_MIN=17
readonly CARGO_FUZZ_VERSION=0.13.2

case "$GOAL" in
    run | check | test | fuzz | bench | perf | all) ;;
    *) echo "usage: $0 run|check|test|fuzz|bench|perf|all" >&2; exit 2 ;;
esac
PURPOSE="\`make $GOAL\`"
[[ "$GOAL" == all ]] && PURPOSE="all of the Makefile"

missing=()  # Debian packages to install
required=() # things without which we cannot go on
by_hand=()  # what no system package brings
absent=()   # things that some tests or measurements alone need

wants() { [[ "$GOAL" == all || "$GOAL" == "$1" ]]; }

have() { printf '  have     %-22s %s\n' "$1" "$2"; }

# lacks WHAT WHY PACKAGE...: notes a gap that Debian packages fill.
lacks() {
    local what=$1 why=$2
    shift 2
    printf '  missing  %-22s %s\n' "$what" "$why"
    missing+=("$@")
    required+=("$what")
}

# command_for COMMAND WHY PACKAGE...
command_for() {
    local path
    if path=$(command -v "$1"); then have "$1" "$path"; else lacks "$@"; fi
}

# library_for PKG_CONFIG_NAME WHY PACKAGE
library_for() {
    if command -v pkg-config >/dev/null && pkg-config --exists "$1"; then
        have "$1" "$(pkg-config --modversion "$1")"
    else
        lacks "$@"
    fi
}

java_version() { java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p'; }

kafka_needs() {
    local version=""
    command -v java >/dev/null && version=$(java_version)
    if [[ "${version:-0}" -ge $JAVA_MIN ]]; then
        have java "$version"
    else
        printf '  missing  %-22s %s\n' "java $JAVA_MIN or later" "runs Apache Kafka for the tests"
        missing+=("$(java_package)")
        absent+=("java")
    fi
    if command -v mvn >/dev/null; then
        have mvn "$(command -v mvn)"
    else
        printf '  missing  %-22s %s\n' "mvn" "fetches Apache Kafka's jars"
        missing+=(maven)
        absent+=("mvn")
    fi
}

# Debian has its programs beside each other by version, and pgcrypto in the same package.
postgres_needs() {
    local folder
    for folder in /usr/lib/postgresql/*/bin; do
        if [[ -x "$folder/initdb" ]]; then have PostgreSQL "$folder"; return 0; fi
    done
    if command -v initdb >/dev/null; then have PostgreSQL "$(command -v initdb)"; return 0; fi
    # The package also starts a server of the system's own, which nothing here uses.
    printf '  missing  %-22s %s\n' PostgreSQL "a peer that the vault is measured against"
    missing+=(postgresql)
    absent+=(PostgreSQL)
}

java_package() {
    if command -v apt-cache >/dev/null && ! apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 &&
        apt-cache show openjdk-21-jre-headless >/dev/null 2>&1; then
        echo openjdk-21-jre-headless
    else
        echo openjdk-17-jre-headless
    fi
}

rust_needs() {
    if command -v cargo >/dev/null; then
        # With rustup this also fetches the toolchain that rust-toolchain.toml names.
        have rust "$(rustc --version | cut -d' ' -f2)"
    else
        printf '  missing  %-22s %s\n' rust "builds everything"
        by_hand+=("Rust: install rustup (see rust-lang.org); rust-toolchain.toml then picks the version.")
    fi
}

look() {
    echo "What this machine has for $PURPOSE:"
    rust_needs
    command_for cc "compiles librdkafka, ring, zstd, jemalloc" build-essential
    command_for c++ "librdkafka's build asks for it; compiles libFuzzer" build-essential
    command_for pkg-config "finds the libraries below" pkg-config
    library_for openssl "TLS to Kafka" libssl-dev
    library_for zlib "compression to Kafka" zlib1g-dev
    library_for tss2-esys "roots in a TPM" libtss2-dev
    if wants check || wants test || wants bench; then
        command_for python3 "runs the example generator, fetches tools" python3
        if command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null; then
            have "python3 venv" "$(python3 -c 'import sys; print(sys.version.split()[0])')"
        else
            lacks "python3 venv" "keeps those tools out of the system" python3-venv
        fi
    fi
    if wants check; then command_for npm "carries buf, which checks the .proto files" npm; fi
    if wants test; then
        command_for softhsm2-util "a PKCS#11 token to test against" softhsm2
        command_for swtpm "a TPM to test against" swtpm
        command_for go "checks the log with Go's checksum-database packages" golang-go
        kafka_needs
    fi
    if wants bench; then
        [[ "$GOAL" == all ]] || kafka_needs
        postgres_needs
    fi
    if wants perf; then command_for valgrind "counts the instructions of a read" valgrind; fi
}

# How a system package can be installed here: "", "sudo", or failure.
privilege() {
    [[ "$(id -u)" == 0 ]] && return 0
    command -v sudo >/dev/null || return 1
    # Without a terminal nobody can type a password.
    if sudo -n true 2>/dev/null || [[ -t 0 ]]; then echo sudo; else return 1; fi
}

install_system_packages() {
    [[ ${#missing[@]} == 0 ]] && return 0
    local packages as
    mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
    if [[ -n "${NO_INSTALL:-}" ]] || ! command -v apt-get >/dev/null || ! as=$(privilege); then
        echo
        echo "Please install (names as on Debian): ${packages[*]}"
        if command -v apt-get >/dev/null; then echo "  apt-get install --no-install-recommends ${packages[*]}"; fi
        if [[ ${#required[@]} != 0 ]]; then exit 1; fi
        if [[ "${CI:-}" == true ]]; then
            echo "In CI everything must run: ${absent[*]} missing." >&2
            exit 1
        fi
        echo "Until then what needs ${absent[*]} fails; the rest runs."
        return 0
    fi
    echo
    echo "Installing: ${packages[*]}"
    $as apt-get -qq update
    $as env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${packages[@]}" >/dev/null
}

# Runs a command whose output matters only if it fails.
quietly() {
    local output
    output=$(mktemp)
    if ! "$@" >"$output" 2>&1; then
        cat "$output" >&2
        rm -f "$output"
        return 1
    fi
    rm -f "$output"
}

# python_tools FILE: what a requirements file asks for, once for each version of the file.
python_tools() {
    local stamp
    stamp="$TOOLS/$(basename "$1").$(cksum <"$1" | cut -d' ' -f1)"
    [[ -e "$stamp" ]] && return 0
    echo "Fetching the tools of $1 into target/tools."
    [[ -x "$TOOLS/python/bin/python" ]] || quietly python3 -m venv "$TOOLS/python"
    quietly "$TOOLS/python/bin/python" -m pip install --disable-pip-version-check --only-binary=:all: -r "$1" ||
        return 1
    touch "$stamp"
}

# Ready-made programs where they exist; a compiler and some minutes where they do not.
cargo_tools() {
    mkdir -p "$TOOLS/bin"
    if python_tools scripts/cargo-tools.txt; then
        ln -sf ../python/bin/cargo-deny ../python/bin/cargo-nextest "$TOOLS/bin/"
        return 0
    fi
    echo "No ready-made cargo-deny and cargo-nextest for this machine: building them, which takes minutes."
    cargo install --locked --root "$TOOLS" cargo-deny@0.20.2 cargo-nextest@0.9.148
}

buf_tool() {
    local at="$TOOLS/buf-$BUF_VERSION"
    if [[ ! -x "$at/node_modules/.bin/buf" ]]; then
        echo "Fetching buf $BUF_VERSION into target/tools."
        quietly npm install --no-audit --no-fund --ignore-scripts --prefix "$at" "@bufbuild/buf@$BUF_VERSION"
    fi
    mkdir -p "$TOOLS/bin"
    ln -sf "../buf-$BUF_VERSION/node_modules/.bin/buf" "$TOOLS/bin/buf"
}

# The program that checks the log as a stranger, built once for each version of its source.
log_verifier() {
    local source=services/vault/tests/go stamp
    stamp="$TOOLS/log-verifier.$(cat "$source"/go.* "$source"/*.go | cksum | cut -d' ' -f1)"
    [[ -e "$stamp" && -x "$TOOLS/bin/log-verifier" ]] && return 0
    echo "Building the log verifier into target/tools."
    mkdir -p "$TOOLS/bin"
    # Writable, so that the folder can be removed; no other toolchain is fetched.
    (cd "$source" && GOTOOLCHAIN=local GOFLAGS="-mod=readonly -modcacherw" GOMODCACHE="$TOOLS/go" \
        quietly go build -o "$TOOLS/bin/log-verifier" .) || return 1
    touch "$stamp"
}

# No package brings it ready-made; it takes a minute to build, once for each version.
fuzz_tool() {
    local stamp="$TOOLS/cargo-fuzz.$CARGO_FUZZ_VERSION"
    [[ -e "$stamp" && -x "$TOOLS/bin/cargo-fuzz" ]] && return 0
    echo "Building cargo-fuzz $CARGO_FUZZ_VERSION into target/tools."
    quietly cargo install --locked --root "$TOOLS" --target-dir target/fuzz "cargo-fuzz@$CARGO_FUZZ_VERSION" ||
        return 1
    touch "$stamp"
}

look
if [[ ${#by_hand[@]} != 0 ]]; then printf '\n%s\n' "${by_hand[@]}" >&2; fi
install_system_packages
if [[ ${#by_hand[@]} != 0 ]]; then exit 1; fi
if [[ -n "${NO_INSTALL:-}" ]]; then exit 0; fi
if wants check || wants test; then cargo_tools; fi
if wants check; then buf_tool; fi
if wants fuzz; then fuzz_tool; fi
if wants test || wants bench; then python_tools scripts/test-servers.txt; fi
if wants test; then
    python_tools scripts/python-client.txt
    log_verifier
fi
echo "Ready for $PURPOSE."
