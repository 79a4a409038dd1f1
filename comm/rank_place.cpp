#include "comm/rank_place.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace trireme {

std::string this_host() {
  std::array<char, 65> name{};
  gethostname(name.data(), name.size() - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::error_code ignored;
  const auto pids = std::filesystem::read_symlink("/proc/self/ns/pid", ignored);
  return std::string(name.data()) + " " + boot + " " + pids.string();
}

RankPlace make_place(std::string_view host, const std::vector<Cpu>& cpus) {
  RankPlace place;
  std::copy_n(host.begin(), std::min(host.size(), place.host.size() - 1), place.host.begin());
  place.cpus = 0xcbf2'9ce4'8422'2325;  // FNV-1a
  for (const Cpu& cpu : cpus) {
    place.cpus = (place.cpus ^ static_cast<uint64_t>(cpu.id)) * 0x100'0000'01b3;
  }
  return place;
}

std::vector<int> ranks_on_host(const std::vector<RankPlace>& places, int rank) {
  std::vector<int> ranks;
  for (size_t i = 0; i < places.size(); ++i) {
    if (places[i].host == places[static_cast<size_t>(rank)].host) {
      ranks.push_back(static_cast<int>(i));
    }
  }
  return ranks;
}

CpuShare cpu_share_of(const std::vector<RankPlace>& places, int rank) {
  const RankPlace& own = places[static_cast<size_t>(rank)];
  return {.index = static_cast<int>(std::count(places.begin(), places.begin() + rank, own)),
          .count = static_cast<int>(std::count(places.begin(), places.end(), own))};
}

}  // namespace trireme
