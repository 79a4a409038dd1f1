#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/control/rank_state.h"
#include "model/packed_model.h"
#include "worker/engine.h"

namespace trireme {

// The file that the coordinator names, mapped. Throws EnvironmentError: it cannot be, or holds
// other weights.
std::shared_ptr<const PackedModel> open_weights(const WeightsFile& file);

// Gets further weights of a rank ready while it steps, on a thread of its own: maps the file,
// compares the checksums of the rank's blocks, and makes all that a step needs. What is no longer
// needed is unmapped there, too.
class WeightsLoader {
 public:
  struct Listener {
    std::function<void(uint64_t done_bytes, uint64_t total_bytes)> on_progress;
    std::function<void(const WeightsPrepared& prepared)> on_prepared;
  };
  using Generation = std::unique_ptr<Engine::Generation>;

  // `encodings`: those of the weights that the engine began with.
  WeightsLoader(Engine& engine, const PackedEncodings& encodings, Listener listener);
  ~WeightsLoader();  // gives up what it does
  WeightsLoader(const WeightsLoader&) = delete;
  WeightsLoader& operator=(const WeightsLoader&) = delete;

  // One at a time: what was prepared before and not taken is given up.
  void prepare(WeightsFile file);
  // What on_prepared told of.
  Generation take(uint64_t generation);
  void give_up(uint64_t generation);
  // Destroys it on the thread.
  void dispose(std::shared_ptr<void> garbage);

  // Whether a step is being computed; wait-free.
  void set_busy(bool busy) { busy_.store(busy, std::memory_order_relaxed); }

 private:
  void run();
  void work(const WeightsFile& file);
  Generation make(const WeightsFile& file, WeightsPrepared& prepared);
  bool go_on(uint64_t generation);

  Engine& engine_;
  const std::string encodings_;  // as text
  const Listener listener_;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // everything below
  std::condition_variable changed_;
  std::optional<WeightsFile> wanted_;  // not begun
  uint64_t generation_ = 0;            // last asked for and not given up, else 0
  Generation prepared_;
  std::vector<std::shared_ptr<void>> garbage_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace trireme
