#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/weight.h"
#include "model/model_config.h"
#include "model/packed_encodings.h"
#include "model/partition.h"

namespace trireme {

// A packed weights file, memory-mapped read-only: a header (version; each weight's encoding:
// format, group size, scale and zero-point types, sparsity, panel layout; the model's config; every
// block's place and checksum) and then kernel-ready blocks, leaf-major, the same file for every
// layout and instruction set.
class PackedModel {
 public:
  // Throws EnvironmentError naming the file, what is wrong (and at which offset), and the mend.
  static std::shared_ptr<const PackedModel> open(const std::filesystem::path& path);
  ~PackedModel();

  const ModelConfig& config() const;
  WeightFormat format() const;  // that most weights have
  const PackedEncodings& encodings() const;
  WeightEncoding encoding(std::string_view tensor) const;  // of a linear weight
  const std::filesystem::path& path() const;
  uint64_t size_bytes() const;
  // Checksum of the header, which holds the config and each block's checksum: differs where any
  // weight does.
  uint64_t fingerprint() const;

  // Block `index` of a tensor ("layers.3.q", "lm_head", "final_norm"), as the kernels read it; of a
  // vector, dense float32 [n_padded] with k = 1. "lm_head" is "embedding" where they are tied.
  struct Block {
    const std::byte* data = nullptr;
    uint64_t size_bytes = 0;
    const BF16* scales = nullptr;    // of a quantized weight
    const uint8_t* zeros = nullptr;  // where it has zero points
    const float* bias = nullptr;
    int32_t n = 0;
    int32_t k = 0;
  };
  Block block(std::string_view tensor, int index) const;
  int n_blocks(std::string_view tensor) const;
  bool has(std::string_view tensor) const;

  // Compares the checksums of every block, or of those that `shard` holds. Returns one line that
  // names the first that is damaged and the mend, else "". `go_on(done, total)` is asked after
  // every few hundred KiB; false ends it.
  std::string find_damage(const ShardPlan* shard,
                          const std::function<bool(uint64_t, uint64_t)>& go_on) const;

  // The whole file. Throws EnvironmentError naming the first block that is damaged.
  void verify(const std::function<void(uint64_t, uint64_t)>& on_progress) const;

 private:
  struct State;
  explicit PackedModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Writes the packed file of a Hugging Face folder: on all processors, a block at a time on each
// (bounded memory), to a temporary name, then renamed. The same bytes on every machine. Progress is
// told by one thread at a time. Throws EnvironmentError for anything wrong with the folder.
void pack_model(const std::filesystem::path& model_folder, const std::filesystem::path& out,
                const PackedEncodings& encodings,
                const std::function<void(uint64_t, uint64_t)>& on_progress);

// What cached_packed_model() does besides.
struct PackedCacheOptions {
  // Where to pack when the cache cannot be written; empty: that is an error.
  std::filesystem::path fallback;
  // Files that stay, though their source has changed since.
  std::vector<std::filesystem::path> keep;
  std::function<void(uint64_t, uint64_t)> on_progress;
  std::function<void(const std::string&)> on_note;  // one line for the user
};

// The packed file of a folder in the cache (TRIREME_CACHE, else XDG_CACHE_HOME/trireme, else
// ~/.cache/trireme), made there when it is missing, stale or unreadable; keyed by path, sizes,
// times and format, safe against several processes making it at once. Throws EnvironmentError.
std::filesystem::path cached_packed_model(const std::filesystem::path& model_folder,
                                          WeightFormat format, const PackedCacheOptions& options);

// Where that file is or would be. Throws EnvironmentError when there is no such model or no cache.
std::filesystem::path cached_packed_path(const std::filesystem::path& model_folder,
                                         WeightFormat format);

}  // namespace trireme
