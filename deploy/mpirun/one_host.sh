#!/usr/bin/env bash
# one_host.sh [MODEL]: 2 tensor shards x 2 pipeline stages on this machine, started by mpirun.
set -euo pipefail
exec trireme serve "${1:-demo}" --tp 2 --pp 2 --launcher mpirun --port 8080
