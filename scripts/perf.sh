#!/usr/bin/env bash
# The instructions that one read takes in the engine, counted by valgrind: the same on a machine that is busy
# and on one that is not, in a virtual machine as well, where the kernel often gives no counters to perf. Two
# runs, one with more reads than the other: their difference is the reads alone. Counted is the thread that
# reads, not sled's, which wait by spinning. valgrind knows no SHA instructions: half of the figure is SHA-256
# in software.
#
#   scripts/perf.sh            compare with what is written in crates/engine/benches/read.instructions
#   BLESS=1 scripts/perf.sh    write there what it is now
#
# More than TOLERANCE per cent more fails; so many less asks to be blessed. Another compiler or processor
# changes the figure by some per cent.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly BASELINE=crates/engine/benches/read.instructions
readonly TOLERANCE=${TOLERANCE:-10}
readonly FEW=500 MANY=2500

built=$(cargo bench --locked -p cloakroom-engine --bench read --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    made = json.loads(line)
    if made.get("executable") and made["target"]["name"] == "read": print(made["executable"])')
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# instructions READS: of a whole run with so many reads.
instructions() {
    valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file="$folder/out.$1" "$built" "$1" \
        >"$folder/said" 2>&1 || { cat "$folder/said" >&2; return 1; }
    sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$folder/out.$1-01" | head -1
}

few=$(instructions $FEW)
many=$(instructions $MANY)
now=$(((many - few) / (MANY - FEW)))
echo "instructions a read: $now"
if [[ -n "${BLESS:-}" ]]; then
    echo "$now" >"$BASELINE"
    exit 0
fi
before=$(cat "$BASELINE")
echo "written down: $before"
if ((now * 100 > before * (100 + TOLERANCE))); then
    echo "A read takes more than $TOLERANCE % more than it did. Where: callgrind_annotate, or BLESS=1 if it must." >&2
    exit 1
fi
if ((now * 100 < before * (100 - TOLERANCE))); then
    echo "A read takes less than it did: BLESS=1 scripts/perf.sh keeps it so." >&2
fi
