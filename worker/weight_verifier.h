#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "model/packed_model.h"
#include "model/partition.h"

namespace trireme {

// Compares the checksums of a rank's weights while it serves, on a thread that runs when the
// processors have nothing else to do, and that takes long rests while steps are computed.
class WeightVerifier {
 public:
  // Begins `delay_ms` after the start, so that a first request comes first. `on_damage` is called
  // at most once, on the thread, with one line for the user.
  WeightVerifier(std::shared_ptr<const PackedModel> file, const ShardPlan& shard, int delay_ms,
                 std::function<void(const std::string&)> on_damage);
  ~WeightVerifier();  // stops
  WeightVerifier(const WeightVerifier&) = delete;
  WeightVerifier& operator=(const WeightVerifier&) = delete;

  // Whether a step is being computed; wait-free.
  void set_busy(bool busy) { busy_.store(busy, std::memory_order_relaxed); }

 private:
  void run();
  bool rest(int ms);  // false: it must end

  std::shared_ptr<const PackedModel> file_;
  ShardPlan shard_;
  int delay_ms_;
  std::function<void(const std::string&)> on_damage_;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace trireme
