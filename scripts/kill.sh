#!/usr/bin/env bash
# Kills a vault at every named point of its protocol and at random system calls, and cuts the power (`make kill` has
# built the daemons). A round has at most 500 kills, so that a failure says which seed to play again, soon.
#
#   scripts/kill.sh NUMBER [SEED]   with a seed: that one round again
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

kills=$1
seed=${2:-}
seeds=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

round() {
    seeds+=("$2")
    if ! KILLS=$1 KILL_SEED=$2 cargo test --locked --quiet -p cloakroom-testkit --test kill -- \
        --exact kills::kill_at_every_step_and_at_random_calls --nocapture | tee "$log" ||
        ! grep -q ': 0 lost, 0 back$' "$log"; then
        echo "not every acknowledged answer held: play it again with SEED=$2 N=$1" >&2
        exit 1
    fi
}

if [[ -n "$seed" ]]; then
    round "$kills" "$seed"
else
    left=$kills
    while ((left > 0)); do
        round "$((left < 500 ? left : 500))" "$((RANDOM << 30 | RANDOM << 15 | RANDOM))"
        ((left -= 500)) || true
    done
fi

cuts=$((kills / 2))
power_seed=${seed:-$((RANDOM << 15 | RANDOM))}
CUTS=$cuts POWER_SEED=$power_seed cargo test --locked --quiet -p cloakroom-testkit --test kill -- \
    --exact power::power_cuts_and_kill_of_what_was_not_synced --nocapture

echo
echo "seeds of the kills: ${seeds[*]}; of the power cuts: $power_seed"
echo "$kills kills, $cuts power cuts: 0 lost, 0 back"
