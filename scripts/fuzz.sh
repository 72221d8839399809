#!/usr/bin/env bash
# Runs every fuzz target (crates/testkit/fuzz) for some seconds, as many at once as there are processors, and
# prints a line for each. Ends non-zero if one of them crashed, hung, or took more than its memory.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]
#
# What is found grows in target/fuzz/corpus; what crashes lies in target/fuzz/artifacts/TARGET, and is played
# again by `target/fuzz/HOST/release/TARGET FILE`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SECONDS_EACH="${1:-60}"
shift || true
readonly HERE=crates/testkit/fuzz OUT=target/fuzz
# The toolchain is the stable one; only the compiler's coverage pass asks for this. No sanitizer: the code is safe
# Rust but for the locked memory, and without one there is time for more runs.
readonly FUZZ=(env RUSTC_BOOTSTRAP=1 cargo fuzz)
HOST=$(rustc -vV | sed -n 's/^host: //p')
readonly HOST

# one TARGET: fuzzes it, prints its line.
one() {
    local target=$1 log="$OUT/$1.log" runs cov failed=""
    mkdir -p "$OUT/corpus/$target" "$OUT/artifacts/$target"
    "$OUT/$HOST/release/$target" "$OUT/corpus/$target" "$HERE/seeds/$target" \
        -artifact_prefix="$OUT/artifacts/$target/" -max_total_time="$SECONDS_EACH" -max_len=16384 \
        -timeout=10 -rss_limit_mb=512 -print_final_stats=1 >"$log" 2>&1 || failed=1
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    cov=$(sed -nE 's/.* cov: ([0-9]+).*/\1/p' "$log" | tail -n 1)
    if [[ -z "$failed" ]]; then
        printf '%-12s %9s runs, %6s edges covered: held\n' "$target" "${runs:-0}" "${cov:-0}"
    else
        printf '%-12s %9s runs, %6s edges covered: FAILED, see %s\n' "$target" "${runs:-0}" "${cov:-0}" "$log"
        return 1
    fi
}

mapfile -t targets < <(if [[ $# == 0 ]]; then "${FUZZ[@]}" list --fuzz-dir "$HERE"; else printf '%s\n' "$@"; fi)
"${FUZZ[@]}" build --sanitizer none --fuzz-dir "$HERE" --target-dir "$OUT"

# Folders that targets make are in memory where they can be: a disk would be what is measured.
if [[ -w /dev/shm ]]; then export TMPDIR=/dev/shm; fi
export -f one
export SECONDS_EACH HERE OUT HOST
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'one {}'
