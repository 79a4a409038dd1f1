#!/usr/bin/env bash
# down.sh SUBNET: ends what runs on the two hosts that up.sh SUBNET made, and removes them.
set -uo pipefail
subnet=${1:?usage: down.sh SUBNET, such as 10.77.5}

status=0
for host in 1 2; do
  namespace=trireme-$subnet.$host
  [ -e "/run/netns/$namespace" ] || continue
  ip netns pids "$namespace" | xargs --no-run-if-empty kill -9
  ip netns delete "$namespace" || status=1
done
bridge=tb${subnet//./}
if [ -e "/sys/class/net/$bridge" ]; then ip link delete "$bridge" || status=1; fi
exit "$status"
