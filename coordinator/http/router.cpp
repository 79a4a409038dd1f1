#include "coordinator/http/router.h"

#include <algorithm>
#include <string_view>

namespace trireme {
namespace {

// Whether `path` is the route's, and what "*" stands for.
bool path_matches(std::string_view pattern, std::string_view path, std::string_view* tail) {
  if (const size_t star = pattern.find("/*/"); star != std::string_view::npos) {
    const std::string_view before = pattern.substr(0, star + 1);
    const std::string_view after = pattern.substr(star + 2);
    if (path.size() <= before.size() + after.size() || !path.starts_with(before) ||
        !path.ends_with(after)) {
      return false;
    }
    *tail = path.substr(before.size(), path.size() - before.size() - after.size());
    return true;
  }
  if (!pattern.ends_with("/*")) return pattern == path;
  const std::string_view prefix = pattern.substr(0, pattern.size() - 1);
  if (!path.starts_with(prefix) || path.size() == prefix.size()) return false;
  *tail = path.substr(prefix.size());
  return true;
}

}  // namespace

Router::Match Router::find(const std::string& method, const std::string& path) const {
  Match match;
  match.status = 404;
  match.label = "other";
  for (const Route& route : routes_) {
    std::string_view tail;
    if (!path_matches(route.path, path, &tail)) continue;
    match.label = route.path;
    if (route.method == method) {
      match.route = &route;
      match.status = 200;
      match.path_tail = tail;
      return match;
    }
    match.status = 405;
    if (match.allowed.find(route.method) != std::string::npos) continue;
    if (!match.allowed.empty()) match.allowed += ", ";
    match.allowed += route.method;
  }
  return match;
}

uint64_t Router::max_sink_bytes() const {
  uint64_t most = 0;
  for (const Route& route : routes_) most = std::max(most, route.max_sink_bytes);
  return most;
}

}  // namespace trireme
