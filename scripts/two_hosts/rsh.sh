#!/usr/bin/env bash
# rsh.sh HOST COMMAND...: what ssh is between real hosts, for the hosts of up.sh (mpirun's
# --mca plm_rsh_agent). Each has its own host name, or OpenMPI would take both for one machine, and
# its own shared memory.
set -euo pipefail
host=$1
shift
# Not `ip netns exec`, and propagation left alone: both remount /, which a chroot forbids.
exec nsenter --net="/run/netns/trireme-$host" \
  unshare --uts --ipc --mount --propagation unchanged -- bash -c '
  hostname "host-${1//./-}"
  mount --make-private /dev/shm 2>/dev/null || mount --make-rprivate /
  mount -t tmpfs tmpfs /dev/shm
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  shift
  eval "$*"' _ "$host" "$@"
