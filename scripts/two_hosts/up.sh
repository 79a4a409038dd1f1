#!/usr/bin/env bash
# up.sh SUBNET (such as 10.77.5): makes two network namespaces that stand for two hosts, SUBNET.1
# and SUBNET.2, on a bridge where this host is SUBNET.254. Needs root. down.sh SUBNET removes them.
set -euo pipefail
subnet=${1:?usage: up.sh SUBNET, such as 10.77.5}
id=${subnet//./} # interface names hold 15 characters
bridge=tb$id

# Whoever makes the bridge owns the subnet.
if ! problem=$(ip link add "$bridge" type bridge 2>&1); then
  if [ -e "/sys/class/net/$bridge" ]; then
    problem="the network $subnet.0/24 is in use: give another, or run down.sh $subnet"
  fi
  echo "up.sh: $problem" >&2
  exit 1
fi
trap '"$(dirname "$0")/down.sh" "$subnet"' ERR
ip address add "$subnet.254/24" dev "$bridge"
ip link set "$bridge" up
for host in 1 2; do
  namespace=trireme-$subnet.$host
  cable=tv$host$id
  ip netns add "$namespace"
  ip link add "$cable" type veth peer name eth0 netns "$namespace"
  ip link set "$cable" master "$bridge" up
  # Not `ip -n`, which remounts /: a chroot forbids that.
  inside=(nsenter --net="/run/netns/$namespace" ip)
  "${inside[@]}" address add "$subnet.$host/24" dev eth0
  "${inside[@]}" link set eth0 up
  "${inside[@]}" link set lo up
done
