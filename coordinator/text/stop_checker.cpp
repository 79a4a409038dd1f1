#include "coordinator/text/stop_checker.h"

#include <algorithm>
#include <utility>

namespace trireme {

StopChecker::StopChecker(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

StopChecker::Output StopChecker::feed(std::string_view piece, bool may_stop) {
  held_ += piece;
  if (!may_stop) n_exempt_ = held_.size();
  const std::string* first = nullptr;
  size_t first_start = 0;
  size_t first_end = 0;
  for (const std::string& stop : stops_) {
    const size_t start = held_.find(stop, n_exempt_ - std::min(n_exempt_, stop.size() - 1));
    if (start == std::string::npos) {
      continue;
    }
    const size_t end = start + stop.size();
    if (first == nullptr || end < first_end || (end == first_end && start < first_start)) {
      first = &stop;
      first_start = start;
      first_end = end;
    }
  }
  if (first != nullptr) {
    held_.resize(first_start);
    return Output{std::exchange(held_, {}), *first};
  }
  const size_t free_size = held_.size() - held_size();
  Output output{held_.substr(0, free_size), std::nullopt};
  held_.erase(0, free_size);
  n_exempt_ -= std::min(n_exempt_, free_size);
  return output;
}

std::string StopChecker::flush() { return std::exchange(held_, {}); }

// The longest end of the text that begins a stop string.
size_t StopChecker::held_size() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, held_.size()); size > longest; --size) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, size))) {
        longest = size;
        break;
      }
    }
  }
  return longest;
}

}  // namespace trireme
