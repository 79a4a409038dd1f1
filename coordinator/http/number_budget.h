#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace trireme {

// How many numbers the answers under way may hold together. Thread-safe.
class NumberBudget {
 public:
  explicit NumberBudget(int64_t n) : left_(std::make_shared<std::atomic<int64_t>>(n)) {}

  // Given back by its release. Null: there is not so much left now.
  std::shared_ptr<void> take(int64_t n) {
    if (left_->fetch_sub(n) < n) {
      left_->fetch_add(n);
      return nullptr;
    }
    return {left_.get(), [left = left_, n](void*) { left->fetch_add(n); }};
  }

 private:
  const std::shared_ptr<std::atomic<int64_t>> left_;
};

}  // namespace trireme
