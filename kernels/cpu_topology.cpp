#include "kernels/cpu_topology.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <tuple>

#include "kernels/check.h"

namespace trireme {
namespace {

constexpr int kMaxCpus = 8192;  // ids above are not understood

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Reads a number at the start of `text` and takes it away; -1 when there is none.
int64_t take_number(std::string_view& text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return -1;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool take_char(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

std::vector<int> allowed_cpus() {
  const size_t size_bytes = CPU_ALLOC_SIZE(kMaxCpus);
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(kMaxCpus),
                                                             [](cpu_set_t* s) { CPU_FREE(s); });
  std::vector<int> out;
  if (set != nullptr && sched_getaffinity(0, size_bytes, set.get()) == 0) {
    for (int i = 0; i < kMaxCpus; ++i) {
      if (CPU_ISSET_S(i, size_bytes, set.get())) out.push_back(i);
    }
  }
  if (out.empty()) out.push_back(0);
  return out;
}

TopologyText read_topology(const std::vector<int>& allowed) {
  TopologyText text;
  const std::filesystem::path devices("/sys/devices/system");
  for (const int node : parse_cpu_list(read_text(devices / "node/online"))) {
    text.node_cpus[node] =
        read_text(devices / "node" / ("node" + std::to_string(node)) / "cpulist");
  }
  for (const int cpu : allowed) {
    text.siblings[cpu] = read_text(devices / "cpu" / ("cpu" + std::to_string(cpu)) /
                                   "topology/thread_siblings_list");
  }
  return text;
}

// [first, last) of `cpus`, what a share may use of it.
struct Slice {
  size_t first = 0;
  size_t last = 0;
  size_t size() const { return last - first; }
};

// The longest run of one node in a slice; cpus are ordered by node.
Slice largest_node_part(const std::vector<Cpu>& cpus, Slice slice) {
  Slice best{slice.first, slice.first};
  for (size_t begin = slice.first, end = begin; begin < slice.last; begin = end) {
    while (end < slice.last && cpus[end].node == cpus[begin].node) ++end;
    if (end - begin > best.size()) best = {begin, end};
  }
  return best;
}

std::vector<Slice> equal_slices(const std::vector<Cpu>& cpus, int count) {
  std::vector<Slice> slices;
  const auto n = static_cast<size_t>(count);
  for (size_t i = 0; i < n; ++i) {
    slices.push_back({cpus.size() * i / n, cpus.size() * (i + 1) / n});
  }
  return slices;
}

// As many shares into each node as it holds, n_threads processors each; empty when they do not fit.
std::vector<Slice> slices_packed_into_nodes(const std::vector<Cpu>& cpus, int count,
                                            size_t n_threads) {
  std::vector<Slice> slices;
  for (size_t at = 0; slices.size() < static_cast<size_t>(count);) {
    if (at + n_threads > cpus.size()) return {};
    if (cpus[at].node == cpus[at + n_threads - 1].node) {
      slices.push_back({at, at + n_threads});
      at += n_threads;
    } else {
      ++at;
    }
  }
  return slices;
}

}  // namespace

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> out;
  do {
    const int64_t first = take_number(text);
    const int64_t last = take_char(text, '-') ? take_number(text) : first;
    for (int64_t i = first; i >= 0 && i <= last && i < kMaxCpus; ++i) {
      out.push_back(static_cast<int>(i));
    }
  } while (take_char(text, ','));
  return out;
}

std::vector<Cpu> order_cpus(const std::vector<int>& allowed, const TopologyText& text) {
  std::vector<Cpu> cpus;
  for (const int id : allowed) {
    Cpu cpu{.id = id, .core = id};
    for (const auto& [node, list] : text.node_cpus) {
      const std::vector<int> ids = parse_cpu_list(list);
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) cpu.node = node;
    }
    if (const auto found = text.siblings.find(id); found != text.siblings.end()) {
      for (const int sibling : parse_cpu_list(found->second)) {
        cpu.core = std::min(cpu.core, sibling);
        const bool usable = std::find(allowed.begin(), allowed.end(), sibling) != allowed.end();
        if (sibling < id && usable) ++cpu.sibling;
      }
    }
    cpus.push_back(cpu);
  }
  std::sort(cpus.begin(), cpus.end(), [](const Cpu& a, const Cpu& b) {
    return std::tie(a.node, a.core, a.id) < std::tie(b.node, b.core, b.id);
  });
  return cpus;
}

int parse_cpu_max(std::string_view text) {
  const int64_t quota = take_number(text);
  const int64_t period = take_char(text, ' ') ? take_number(text) : -1;
  if (quota <= 0 || period <= 0) return 0;
  // Not div_ceil(): neither number is bounded.
  const int64_t whole = quota / period + (quota % period != 0 ? 1 : 0);
  return static_cast<int>(std::min<int64_t>(whole, kMaxCpus));
}

std::vector<Cpu> available_cpus() {
  const std::vector<int> allowed = allowed_cpus();
  return order_cpus(allowed, read_topology(allowed));
}

int cpu_limit() {
  // Of version 2: "0::/user.slice/...". A group's limit holds for those below it.
  const std::string groups = read_text("/proc/self/cgroup");
  const size_t line = groups.rfind("0::/", 0) == 0 ? 0 : groups.find("\n0::/") + 1;
  const std::string own = groups.compare(line, 4, "0::/") == 0
                              ? groups.substr(line + 4, groups.find('\n', line) - line - 4)
                              : "";
  int limit = 0;
  std::filesystem::path folder("/sys/fs/cgroup");
  const auto look = [&] {
    const int here = parse_cpu_max(read_text(folder / "cpu.max"));
    if (here != 0 && (limit == 0 || here < limit)) limit = here;
  };
  look();
  for (const std::filesystem::path& part : std::filesystem::path(own)) {
    folder /= part;
    look();
  }
  return limit;
}

int default_threads(const std::vector<Cpu>& cpus, int limit, int n_shares) {
  const auto cores =
      std::count_if(cpus.begin(), cpus.end(), [](const Cpu& cpu) { return cpu.sibling == 0; });
  const int usable =
      limit == 0 ? static_cast<int>(cores) : std::min(static_cast<int>(cores), limit);
  return std::max(1, usable / n_shares);
}

std::vector<int> cpus_of_share(const std::vector<Cpu>& cpus, int limit, CpuShare share,
                               int n_threads) {
  TRIREME_CHECK(n_threads >= 1 && share.index >= 0 && share.index < share.count);
  const auto wanted = static_cast<size_t>(share.count) * static_cast<size_t>(n_threads);
  if (wanted > cpus.size() || (limit != 0 && static_cast<size_t>(limit) < cpus.size())) return {};
  std::vector<Cpu> usable;
  std::copy_if(cpus.begin(), cpus.end(), std::back_inserter(usable),
               [](const Cpu& cpu) { return cpu.sibling == 0; });
  if (usable.size() < wanted) usable = cpus;

  const auto n = static_cast<size_t>(n_threads);
  std::vector<Slice> slices = equal_slices(usable, share.count);
  const bool in_nodes = std::all_of(slices.begin(), slices.end(), [&](const Slice& slice) {
    return largest_node_part(usable, slice).size() >= n;
  });
  if (in_nodes) {
    for (Slice& slice : slices) slice = largest_node_part(usable, slice);
  } else if (const auto packed = slices_packed_into_nodes(usable, share.count, n);
             !packed.empty()) {
    slices = packed;
  }
  const Slice mine = slices[static_cast<size_t>(share.index)];
  std::vector<int> out;
  for (size_t i = mine.first; i < mine.last; ++i) out.push_back(usable[i].id);
  return out;
}

void bind_this_thread(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  const size_t size_bytes = CPU_ALLOC_SIZE(kMaxCpus);
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(kMaxCpus),
                                                             [](cpu_set_t* s) { CPU_FREE(s); });
  if (set == nullptr) return;
  CPU_ZERO_S(size_bytes, set.get());
  for (const int cpu : cpus) CPU_SET_S(cpu, size_bytes, set.get());
  sched_setaffinity(0, size_bytes, set.get());
}

}  // namespace trireme
