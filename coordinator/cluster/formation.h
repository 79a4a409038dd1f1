#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/launch_spec.h"

namespace trireme {

// How one launch arranges a group, and where.
struct Formation {
  LayoutChoice choice;
  std::vector<std::string> hosts;  // some of the spec's, as written there
  bool operator==(const Formation&) const = default;
};

// The spec's own layout on all of its hosts.
Formation whole_formation(const LaunchSpec& spec);

// What to launch for this formation of the spec's group.
LaunchSpec in_formation(const LaunchSpec& spec, const Formation& formation);

// Of every rank, the entry of `hosts` where its launcher starts it; empty for this host.
std::vector<std::string> hosts_of_ranks(const Formation& formation);

// What fits on these of the spec's hosts: its own layout, else the first of its smaller ones that
// they have places for. A host has the places that its entry names, else as many as the spec's own
// layout puts on a host at most. None: nothing fits.
std::optional<Formation> formation_on(const LaunchSpec& spec,
                                      const std::vector<std::string>& hosts);

// Every layout of min_ranks or more ranks, but fewer than `whole`, that `is_valid`: most ranks
// first; of as many, those that spread no tensor-parallel group wider than `whole` does, widest
// first.
std::vector<Layout> smaller_layouts(const Layout& whole, int min_ranks,
                                    const std::function<bool(const Layout&)>& is_valid);

}  // namespace trireme
