#!/bin/sh
# Runs mpi_comm_check on N ranks and passes when every one of them says so. mpirun's own exit status
# does not tell: ranks that met a fault leave without MPI_Finalize, as they should.
# usage: mpi_comm_check.sh N_RANKS PROGRAM HOSTS WHAT (see mpi_comm_check.cpp)
n_ranks=$1
program=$2
shift 2
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# OpenMPI keeps memory until the process ends; only our own errors count under AddressSanitizer.
export ASAN_OPTIONS=detect_leaks=0
output=$(timeout 200 mpirun -np "$n_ranks" --oversubscribe --bind-to none \
  --mca mpi_yield_when_idle 1 --mca odls_base_sigkill_timeout 0 "$program" "$folder" "$@" 2>&1)
echo "$output"
passed=$(echo "$output" | grep -c '^mpi_comm_check: passed')
echo "$passed of $n_ranks ranks passed"
[ "$passed" -eq "$n_ranks" ]
