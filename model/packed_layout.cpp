#include "model/packed_layout.h"

#include <algorithm>
#include <tuple>

#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

uint64_t aligned(uint64_t offset) { return round_up(offset, kPackedAlignment); }

// The attention leaf that holds a query head.
int32_t leaf_of_head(const LeafCut& attention, int32_t head) {
  for (int leaf = 0; leaf < attention.n_leaves; ++leaf) {
    if (attention.units(leaf).contains(head)) return leaf;
  }
  TRIREME_CHECK_MSG(false, "a head outside every leaf");
  return 0;
}

IndexRange heads_to_columns(IndexRange heads, int32_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

// Where a block stands in the file; compared field by field.
struct FilePlace {
  int32_t group = 0;    // embedding, layer, end
  int32_t section = 0;  // vectors, attention, MLP
  int32_t leaf = 0;
  PackedLayout::BlockId id;

  auto key() const { return std::tuple(group, section, leaf, id.tensor, id.block); }
};

int32_t section_of(Split split) {
  switch (split) {
    case Split::kWhole: return 0;
    case Split::kHeadColumns:
    case Split::kKvColumns:
    case Split::kHeadRows: return 1;
    case Split::kMlpColumns:
    case Split::kMlpRows:
    case Split::kVocabColumns: return 2;
  }
  return 0;
}

int32_t n_blocks_of(const WeightSpec& spec, const ModelConfig& config, const ModelCuts& cuts) {
  switch (spec.split) {
    case Split::kWhole: return 1;
    case Split::kHeadColumns:
    case Split::kHeadRows: return cuts.attention.n_leaves;
    case Split::kKvColumns: return config.n_kv_heads;
    case Split::kMlpColumns:
    case Split::kMlpRows: return cuts.mlp.n_leaves;
    case Split::kVocabColumns: return cuts.n_vocab_chunks;
  }
  return 0;
}

PackedBlock sized_block(const WeightSpec& spec, const BlockPart& part, WeightEncoding encoding) {
  PackedBlock block;
  block.n = part.columns.size();
  block.k = part.inputs.size();
  block.n_begin = part.columns.begin;
  block.k_begin = part.inputs.begin;
  block.size_bytes = static_cast<uint64_t>(
      spec.split == Split::kWhole ? n_padded(block.n) * static_cast<int64_t>(sizeof(float))
                                  : block_parts_of(encoding, block.n, block.k).size);
  return block;
}

}  // namespace

std::vector<BlockPart> block_parts(const WeightSpec& spec, const ModelConfig& config,
                                   const ModelCuts& cuts) {
  std::vector<BlockPart> out;
  const IndexRange all_columns = {0, spec.n};
  const IndexRange all_inputs = {0, spec.k};
  const int32_t group = div_exact(config.n_heads, config.n_kv_heads);
  switch (spec.split) {
    case Split::kWhole: out.push_back({all_columns, all_inputs, 0}); break;
    case Split::kHeadColumns:
    case Split::kHeadRows:
      for (int leaf = 0; leaf < cuts.attention.n_leaves; ++leaf) {
        const IndexRange part = heads_to_columns(cuts.attention.units(leaf), config.head_dim);
        if (spec.split == Split::kHeadColumns) out.push_back({part, all_inputs, leaf});
        if (spec.split == Split::kHeadRows) out.push_back({all_columns, part, leaf});
      }
      break;
    case Split::kKvColumns:
      for (int32_t head = 0; head < config.n_kv_heads; ++head) {
        out.push_back({heads_to_columns({head, head + 1}, config.head_dim), all_inputs,
                       leaf_of_head(cuts.attention, head * group)});
      }
      break;
    case Split::kMlpColumns:
    case Split::kMlpRows:
      for (int leaf = 0; leaf < cuts.mlp.n_leaves; ++leaf) {
        const IndexRange part = mlp_columns(config, cuts, leaf);
        if (spec.split == Split::kMlpColumns) out.push_back({part, all_inputs, leaf});
        if (spec.split == Split::kMlpRows) out.push_back({all_columns, part, leaf});
      }
      break;
    case Split::kVocabColumns:
      for (int32_t chunk = 0; chunk < cuts.n_vocab_chunks; ++chunk) {
        const int32_t begin = chunk * kVocabChunk;
        out.push_back({{begin, std::min(begin + kVocabChunk, spec.n)}, all_inputs, chunk});
      }
      break;
  }
  return out;
}

int64_t n_packed_blocks(const ModelConfig& config) {
  const ArchSpec* arch = find_architecture(config.architecture);
  TRIREME_CHECK(arch != nullptr);
  const ModelCuts cuts = model_cuts(config);
  int64_t n_blocks = 0;
  for (const WeightSpec& spec : arch->weights(config)) n_blocks += n_blocks_of(spec, config, cuts);
  return n_blocks;
}

PackedLayout plan_packed_layout(const ModelConfig& config, const PackedEncodings& encodings) {
  const ArchSpec* arch = find_architecture(config.architecture);
  TRIREME_CHECK(arch != nullptr);
  const ModelCuts cuts = model_cuts(config);
  PackedLayout layout;
  std::vector<FilePlace> places;
  int32_t group = 0;
  int32_t layer = -1;
  for (const WeightSpec& spec : arch->weights(config)) {
    if (spec.layer != layer) ++group;
    layer = spec.layer;
    const auto tensor = static_cast<int32_t>(layout.tensors.size());
    PackedTensor& packed = layout.tensors.emplace_back(
        PackedTensor{.spec = spec, .encoding = encodings.of(spec.name), .blocks = {}});
    for (const BlockPart& part : block_parts(spec, config, cuts)) {
      const auto block = static_cast<int32_t>(packed.blocks.size());
      places.push_back({group, section_of(spec.split), part.leaf, {tensor, block}});
      packed.blocks.push_back(sized_block(spec, part, packed.encoding));
    }
    TRIREME_CHECK(packed.blocks.size() == static_cast<size_t>(n_blocks_of(spec, config, cuts)));
  }
  std::sort(places.begin(), places.end(),
            [](const FilePlace& a, const FilePlace& b) { return a.key() < b.key(); });
  uint64_t offset = 0;
  for (const FilePlace& place : places) {
    PackedTensor& packed = layout.tensors[static_cast<size_t>(place.id.tensor)];
    PackedBlock& block = packed.blocks[static_cast<size_t>(place.id.block)];
    block.offset = offset;
    block.end = offset + block.size_bytes;
    if (!packed.spec.hf_bias.empty()) {
      block.bias_offset = aligned(block.end);
      block.end = block.bias_offset + static_cast<uint64_t>(n_padded(block.n)) * sizeof(float);
    }
    offset = aligned(block.end);
    layout.order.push_back(place.id);
  }
  layout.data_bytes = offset;
  return layout;
}

IndexRange shard_blocks(const WeightSpec& spec, const ShardPlan& shard, bool tied) {
  if (spec.layer >= 0 && !shard.layers.contains(spec.layer)) return {};
  const bool is_embedding = spec.name == "embedding";
  const bool at_start = is_embedding && shard.is_first_stage();
  const bool at_end = (!is_embedding || tied) && shard.is_last_stage();
  if (spec.layer < 0 && !at_start && !at_end) return {};
  switch (spec.split) {
    case Split::kWhole: return {0, 1};
    case Split::kHeadColumns:
    case Split::kHeadRows: return shard.attention_leaves;
    case Split::kKvColumns: return shard.kv_heads;
    case Split::kMlpColumns:
    case Split::kMlpRows: return shard.mlp_leaves;
    case Split::kVocabColumns: return shard.vocab_chunks;
  }
  return {};
}

uint64_t shard_weight_bytes(const PackedLayout& layout, const ShardPlan& shard, bool tied) {
  uint64_t total = 0;
  for (const PackedTensor& tensor : layout.tensors) {
    const IndexRange blocks = shard_blocks(tensor.spec, shard, tied);
    for (int32_t b = blocks.begin; b < blocks.end; ++b) {
      const PackedBlock& block = tensor.blocks[static_cast<size_t>(b)];
      total += block.end - block.offset;
    }
  }
  return total;
}

}  // namespace trireme
