#pragma once

#include <string>
#include <vector>

#include "coordinator/http/http_message.h"

namespace trireme {

// Finds the route of a request. Pure.
class Router {
 public:
  struct Match {
    const Route* route = nullptr;  // null: see status
    int status = 200;              // 404 or 405 when there is no route
    std::string path_tail;
    std::string allowed;  // with 405: the methods the path has
    std::string label;    // the route's path, or "other": bounded, for metrics
  };

  explicit Router(std::vector<Route> routes) : routes_(std::move(routes)) {}
  Match find(const std::string& method, const std::string& path) const;
  // The longest body that any route takes as it comes.
  uint64_t max_sink_bytes() const;

 private:
  std::vector<Route> routes_;
};

}  // namespace trireme
