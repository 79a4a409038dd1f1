# Sourced by the scripts of this folder: where the repository is, how to speak, how many jobs fit.

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script_name=$(basename "$0")

say() { printf '%s: %s\n' "$script_name" "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints the comment block at the head of the calling script: what --help shows.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$0"; }

# One compiler needs up to 1.5 GiB (Boost.Asio, protobuf): as many jobs as cores and memory allow.
build_jobs() {
  local cores available_kib by_memory
  cores=$(nproc)
  available_kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
  by_memory=$((available_kib / 1572864))
  if [ "$by_memory" -lt 1 ]; then by_memory=1; fi
  if [ "$by_memory" -lt "$cores" ]; then echo "$by_memory"; else echo "$cores"; fi
}
