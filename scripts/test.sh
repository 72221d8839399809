#!/usr/bin/env bash
# Runs every test (`make test` has built the daemons that some of them start), then makes sure that no process a test started is still alive.
#
#   scripts/test.sh [arguments for cargo nextest run]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Inherited by everything that a test starts, and so the way to find what it left behind. Neither name begins
# with CLOAKROOM_: a daemon would take it for a key of its configuration.
export TEST_RUN_MARK="run-$$-$RANDOM"
export TEST_PYTHON="$PWD/target/tools/python/bin/python"
export TEST_LOG_VERIFIER="$PWD/target/tools/bin/log-verifier"

# Prints the ids of processes that carry this run's mark, but for this script and its own children.
leftovers() {
    local environment pid
    [[ -d /proc/self ]] || return 0
    for environment in /proc/[0-9]*/environ; do
        pid=${environment#/proc/}
        pid=${pid%/environ}
        [[ "$pid" == "$$" || "$pid" == "$BASHPID" ]] && continue
        if tr '\0' '\n' 2>/dev/null <"$environment" | grep -qx "TEST_RUN_MARK=$TEST_RUN_MARK"; then
            # Ours are the script's shells; whatever runs another program is a leftover.
            [[ "$(readlink "/proc/$pid/exe" 2>/dev/null)" == "$(readlink /proc/$$/exe)" ]] && continue
            echo "$pid"
        fi
    done
}

end_leftovers() {
    local pids pid deadline
    # A server that a finished test told to stop may still be on its way out.
    deadline=$((SECONDS + 15))
    while pids=$(leftovers) && [[ -n "$pids" ]]; do
        if ((SECONDS >= deadline)); then
            echo "These processes outlived the tests that started them:" >&2
            for pid in $pids; do
                echo "  $pid  $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c1-200)" >&2
                kill -KILL "$pid" 2>/dev/null || true
            done
            return 1
        fi
        sleep 0.2
    done
}

result=0
cargo test --locked --workspace --doc --quiet || result=1
cargo nextest run --locked --workspace --no-fail-fast "$@" || result=1
end_leftovers || result=1
exit "$result"
