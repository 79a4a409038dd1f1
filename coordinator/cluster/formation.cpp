#include "coordinator/cluster/formation.h"

#include <algorithm>
#include <tuple>

#include "coordinator/cluster/launchers.h"
#include "kernels/check.h"

namespace trireme {

Formation whole_formation(const LaunchSpec& spec) {
  return {.choice = {.layout = spec.job.layout, .kv_bytes = spec.job.kv_bytes},
          .hosts = spec.hosts};
}

LaunchSpec in_formation(const LaunchSpec& spec, const Formation& formation) {
  LaunchSpec launched = spec;
  launched.hosts = formation.hosts;
  launched.job.layout = formation.choice.layout;
  launched.job.kv_bytes = formation.choice.kv_bytes;
  launched.job.max_plans_in_flight += formation.choice.layout.pp - spec.job.layout.pp;
  return launched;
}

std::vector<std::string> hosts_of_ranks(const Formation& formation) {
  std::vector<std::string> of_ranks;
  auto entry = formation.hosts.begin();
  for (const HostSlots& placed : place_ranks(formation.choice.layout, formation.hosts)) {
    while (parse_host(*entry).host != placed.host) ++entry;
    of_ranks.insert(of_ranks.end(), static_cast<size_t>(placed.n_slots), *entry++);
  }
  of_ranks.resize(static_cast<size_t>(formation.choice.layout.n_ranks()));
  return of_ranks;
}

std::optional<Formation> formation_on(const LaunchSpec& spec,
                                      const std::vector<std::string>& hosts) {
  Formation whole = whole_formation(spec);
  if (hosts == spec.hosts) return whole;
  const bool named = std::any_of(spec.hosts.begin(), spec.hosts.end(),
                                 [](const auto& entry) { return parse_host(entry).n_slots > 0; });
  int n_unnamed = 1;
  for (const HostSlots& host : place_ranks(spec.job.layout, spec.hosts)) {
    if (!named) n_unnamed = std::max(n_unnamed, host.n_slots);
  }
  int n_places = 0;
  for (const std::string& entry : hosts) {
    const int n_named = parse_host(entry).n_slots;
    n_places += n_named > 0 ? n_named : n_unnamed;
  }
  if (whole.choice.layout.n_ranks() <= n_places) {
    return Formation{.choice = whole.choice, .hosts = hosts};
  }
  for (const LayoutChoice& choice : spec.smaller_layouts) {
    if (choice.layout.n_ranks() <= n_places) return Formation{.choice = choice, .hosts = hosts};
  }
  return std::nullopt;
}

std::vector<Layout> smaller_layouts(const Layout& whole, int min_ranks,
                                    const std::function<bool(const Layout&)>& is_valid) {
  TRIREME_CHECK(min_ranks >= 1);
  std::vector<Layout> layouts;
  for (int n_ranks = whole.n_ranks() - 1; n_ranks >= min_ranks; --n_ranks) {
    for (int tp = 1; tp <= n_ranks; ++tp) {
      const Layout layout{.tp = tp, .pp = n_ranks / tp};
      if (layout.n_ranks() == n_ranks && is_valid(layout)) layouts.push_back(layout);
    }
  }
  std::sort(layouts.begin(), layouts.end(), [&whole](const Layout& a, const Layout& b) {
    const auto merit = [&whole](const Layout& layout) {
      return std::tuple(layout.n_ranks(), layout.tp <= whole.tp, layout.tp);
    };
    return merit(a) > merit(b);
  });
  return layouts;
}

}  // namespace trireme
