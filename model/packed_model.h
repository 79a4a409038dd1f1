#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/weight.h"
#include "model/model_config.h"

namespace trireme {

// A packed weights file, memory-mapped read-only: a header (version, instruction-set layout,
// format, group size, scale and zero-point layout, sparsity, the model's config, every block's
// place and checksum) and then kernel-ready blocks, leaf-major, the same file for every layout.
class PackedModel {
 public:
  // Throws EnvironmentError naming the file, what is wrong (and at which offset), and the mend.
  static std::shared_ptr<const PackedModel> open(const std::filesystem::path& path);
  ~PackedModel();

  const ModelConfig& config() const;
  WeightFormat format() const;
  const std::filesystem::path& path() const;
  uint64_t size_bytes() const;

  // Block `index` of a tensor ("layers.3.q", "lm_head", "final_norm"), as the kernels read it; of a
  // vector, dense float32 [n_padded] with k = 1. "lm_head" is "embedding" where they are tied.
  struct Block {
    const std::byte* data = nullptr;
    uint64_t size_bytes = 0;
    const float* bias = nullptr;
    int32_t n = 0;
    int32_t k = 0;
  };
  Block block(std::string_view tensor, int index) const;
  int n_blocks(std::string_view tensor) const;
  bool has(std::string_view tensor) const;

  // Reads the whole file and compares every block's checksum. Throws EnvironmentError naming the
  // first block that is damaged.
  void verify(const std::function<void(uint64_t, uint64_t)>& on_progress) const;

 private:
  struct State;
  explicit PackedModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Writes the packed file of a Hugging Face folder. Streams tensor by tensor (bounded memory),
// writes to a temporary name and renames. Throws EnvironmentError for anything wrong with the
// folder.
void pack_model(const std::filesystem::path& model_folder, const std::filesystem::path& out,
                WeightFormat format, const std::function<void(uint64_t, uint64_t)>& on_progress);

// The packed file of a folder in the cache (TRIREME_CACHE, else XDG_CACHE_HOME/trireme, else
// ~/.cache/trireme), made there when it is missing or stale; keyed by path, sizes, times and
// format, safe against several processes making it at once.
std::filesystem::path cached_packed_model(
    const std::filesystem::path& model_folder, WeightFormat format,
    const std::function<void(uint64_t, uint64_t)>& on_progress);

}  // namespace trireme
