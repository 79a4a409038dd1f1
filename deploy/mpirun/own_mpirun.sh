#!/usr/bin/env bash
# own_mpirun.sh [MODEL]: four ranks under your own mpirun, on the hosts of ./hostfile.
#   --bind-to none                  ranks have threads; one core each would slow them down
#   mpi_yield_when_idle 1           waiting ranks make room, where there are more ranks than cores
#   odls_base_sigkill_timeout 0     the job ends at once when a rank dies
set -euo pipefail
exec mpirun -np 4 --hostfile "$(dirname "$0")/hostfile" --bind-to none \
  --mca mpi_yield_when_idle 1 --mca odls_base_sigkill_timeout 0 \
  trireme serve "${1:-demo}" --tp 2 --pp 2 --port 8080
