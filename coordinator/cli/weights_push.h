#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/serving/inference_core.h"
#include "kernels/weight.h"
#include "model/model_config.h"

namespace trireme {

// `trireme push` on the server's side: looks whether a model can take the place of the one that is
// served, packs it, and has the ranks change.
class WeightsPush {
 public:
  using Tell = std::function<void(const std::string& progress)>;

  // What the server began with.
  struct Served {
    std::filesystem::path model;  // folder with the tokenizer's files
    ModelConfig config;
    std::string encodings;  // encodings_text()
    WeightFormat format = WeightFormat::kBF16;
    std::vector<std::filesystem::path> packed;  // the file; then, the last two
    std::filesystem::path fallback;             // as of PackedCacheOptions
    int32_t push_ms = 0;                        // as of GroupDeadlines
  };

  WeightsPush(InferenceCore& core, Served served);

  // As Session::push.
  std::string push(const std::string& model, const Tell& tell);
  // From any thread.
  void refuse(const std::string& why);

 private:
  std::filesystem::path pack(const std::filesystem::path& model, const Tell& tell) const;
  void check_ending() const;

  InferenceCore& core_;
  Served served_;
  const uint64_t tokenizer_;  // checksum of tokenizer.json
  std::atomic<bool> refusing_ = false;
};

}  // namespace trireme
