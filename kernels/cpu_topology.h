#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// One logical processor.
struct Cpu {
  int id = 0;
  int node = 0;     // NUMA node
  int core = 0;     // the lowest id of the core's processors
  int sibling = 0;  // 0 for the first processor of its core that may be used, 1 for the next, ...
  bool operator==(const Cpu&) const = default;
};

// A rank among those of its machine that share one set of processors.
struct CpuShare {
  int index = 0;
  int count = 1;
};

// "0-3,8,10-11", as the kernel writes sets of processors and nodes; what is not understood is left
// out.
std::vector<int> parse_cpu_list(std::string_view text);

// What the kernel says of a machine.
struct TopologyText {
  std::map<int, std::string> node_cpus;  // node -> /sys/devices/system/node/node*/cpulist
  std::map<int, std::string> siblings;   // cpu -> /sys/.../cpu*/topology/thread_siblings_list
};

// The processors `allowed`, ordered by node, then core, then sibling. Those of which nothing is
// said are cores of node 0.
std::vector<Cpu> order_cpus(const std::vector<int>& allowed, const TopologyText& text);

// Whole processors that a control group's cpu.max gives ("max 100000", "150000 100000"), rounded
// up; 0: no limit.
int parse_cpu_max(std::string_view text);

// The processors the calling thread may use, ordered; never empty.
std::vector<Cpu> available_cpus();
// The smallest limit of this process's control groups, as parse_cpu_max.
int cpu_limit();

// Threads for each of the shares of a machine: cores, not their second processors.
int default_threads(const std::vector<Cpu>& cpus, int limit, int n_shares);

// The processors of one share, at least n_threads: for the ThreadPool. Second processors of cores
// are given only when there are too few cores. A share lies in one node wherever n_threads of every
// share do. Empty (nothing is bound) when the shares together want more than there is, or when a
// limit says that the processors are shared with others.
std::vector<int> cpus_of_share(const std::vector<Cpu>& cpus, int limit, CpuShare share,
                               int n_threads);

// Lets the calling thread run on these only. Nothing happens when there are none, or where the
// system does not allow it: that costs speed only.
void bind_this_thread(const std::vector<int>& cpus);

}  // namespace trireme
