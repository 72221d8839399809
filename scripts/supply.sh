#!/usr/bin/env bash
# Licences, bans and sources of everything we depend on; known vulnerabilities where their database can be
# had (it lies in a git repository that not every network reaches).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo deny --locked check --hide-inclusion-graph bans licenses sources

if timeout 30 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check --disable-fetch advisories
else
    echo "advisories not checked: their database is out of reach"
fi
