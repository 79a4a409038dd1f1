#include "model/stage_weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/core.h>

#include "kernels/check.h"
#include "model/mapped_file.h"
#include "model/packed_model.h"

namespace trireme {
namespace {

// Collects a rank's blocks and where their bytes are.
class StageMapper {
 public:
  StageMapper(const PackedModel& file, const ShardPlan& shard, StageWeights& out)
      : file_(file), config_(file.config()), shard_(shard), out_(out) {}

  void map() {
    for (int32_t layer = shard_.layers.begin; layer < shard_.layers.end; ++layer) map_layer(layer);
    if (shard_.is_first_stage()) out_.embedding = vocabulary("embedding");
    if (shard_.is_last_stage()) {
      out_.lm_head = vocabulary("lm_head");
      out_.final_norm = vector("final_norm");
    }
  }

  // Reads a byte of every page that was pointed at, in file order.
  void touch(const std::function<void(uint64_t, uint64_t)>& on_progress) {
    std::sort(touched_.begin(), touched_.end());
    // One range where two names share it (a tied lm_head).
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const auto& [data, size] : touched_) out_.size_bytes += size;
    uint64_t done = 0;
    for (const auto& [data, size] : touched_) {
      touch_pages(data, size);
      done += size;
      if (on_progress) on_progress(done, out_.size_bytes);
    }
  }

 private:
  void map_layer(int32_t layer) {
    const auto name = [layer](const char* part) {
      return fmt::format("layers.{}.{}", layer, part);
    };
    const int32_t q_size = shard_.heads.size() * config_.head_dim;
    LayerWeights w;
    w.input_norm = vector(name("input_norm"));
    w.post_norm = vector(name("post_norm"));
    w.q_norm = optional_vector(name("q_norm"));
    w.k_norm = optional_vector(name("k_norm"));
    w.o_bias = optional_vector(name("o_bias"));
    w.down_bias = optional_vector(name("down_bias"));
    w.q = columns(name("q"), shard_.attention_leaves);
    w.k = columns(name("k"), shard_.kv_heads);
    w.v = columns(name("v"), shard_.kv_heads);
    w.o = rows(name("o"), shard_.attention_leaves);
    w.gate = columns(name("gate"), shard_.mlp_leaves);
    w.up = columns(name("up"), shard_.mlp_leaves);
    w.down = rows(name("down"), shard_.mlp_leaves);
    TRIREME_CHECK(w.q.n_out == q_size && w.o.k_in == q_size);
    TRIREME_CHECK(w.k.n_out == shard_.kv_heads.size() * config_.head_dim);
    TRIREME_CHECK(w.gate.n_out == shard_.mlp_columns.size());
    TRIREME_CHECK(w.down.k_in == shard_.mlp_columns.size());
    out_.layers.push_back(w);
  }

  Weight vocabulary(const std::string& name) {
    Weight w = columns(name, shard_.vocab_chunks);
    w.k_in = config_.hidden_size;  // also of a rank that owns no chunk
    TRIREME_CHECK(w.n_out == shard_.vocab.size());
    return w;
  }

  // Blocks side by side in the output.
  Weight columns(const std::string& name, IndexRange blocks) {
    Weight w;
    w.encoding = file_.encoding(name);
    std::vector<WeightBlock> list;
    for (int32_t i = blocks.begin; i < blocks.end; ++i) {
      WeightBlock& block = list.emplace_back(read(name, i));
      block.out_begin = w.n_out;
      w.n_out += block.n;
      w.k_in = block.k;
    }
    return store(w, std::move(list));
  }

  // Blocks side by side in the input, each giving a whole output row.
  Weight rows(const std::string& name, IndexRange blocks) {
    Weight w;
    w.encoding = file_.encoding(name);
    std::vector<WeightBlock> list;
    for (int32_t i = blocks.begin; i < blocks.end; ++i) {
      WeightBlock& block = list.emplace_back(read(name, i));
      w.k_in += block.k;
      w.n_out = block.n;
    }
    return store(w, std::move(list));
  }

  Weight store(Weight w, std::vector<WeightBlock> list) {
    // Moving the outer vector's elements keeps each list's memory in place.
    out_.block_storage.push_back(std::move(list));
    w.blocks = out_.block_storage.back();
    return w;
  }

  WeightBlock read(const std::string& name, int32_t index) {
    const PackedModel::Block block = file_.block(name, index);
    uint64_t size = block.size_bytes;
    if (block.bias != nullptr) {
      const auto* bias_end = reinterpret_cast<const std::byte*>(block.bias + n_padded(block.n));
      size = static_cast<uint64_t>(bias_end - block.data);
    }
    touched_.emplace_back(block.data, size);
    WeightBlock out;
    out.data = block.data;
    out.scales = block.scales;
    out.zeros = block.zeros;
    out.bias = block.bias;
    out.n = block.n;
    out.k = block.k;
    return out;
  }

  const float* vector(const std::string& name) {
    return static_cast<const float*>(read(name, 0).data);
  }
  const float* optional_vector(const std::string& name) {
    return file_.has(name) ? vector(name) : nullptr;
  }

  const PackedModel& file_;
  const ModelConfig& config_;
  const ShardPlan& shard_;
  StageWeights& out_;
  std::vector<std::pair<const std::byte*, uint64_t>> touched_;
};

}  // namespace

StageWeights map_stage_weights(std::shared_ptr<const PackedModel> file, const ShardPlan& shard,
                               const std::function<void(uint64_t, uint64_t)>& on_progress) {
  TRIREME_CHECK(file != nullptr);
  StageWeights out;
  StageMapper mapper(*file, shard, out);
  mapper.map();
  mapper.touch(on_progress);
  out.file = std::move(file);
  return out;
}

}  // namespace trireme
