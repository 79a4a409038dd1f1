#include "model/packed_model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/result.h"
#include "model/checksum.h"
#include "model/mapped_file.h"
#include "model/packed_folder.h"
#include "model/packed_header.h"

namespace trireme {

namespace {

// What a tensor's blocks are.
const char* block_name(Split split) {
  switch (split) {
    case Split::kKvColumns: return "KV head";
    case Split::kVocabColumns: return "vocabulary chunk";
    case Split::kWhole: return "part";
    case Split::kHeadColumns:
    case Split::kHeadRows:
    case Split::kMlpColumns:
    case Split::kMlpRows: break;
  }
  return "leaf";
}

}  // namespace

struct PackedModel::State {
  std::filesystem::path path;
  MappedFile file;
  PackedHeader header;
  std::map<std::string, const PackedTensor*, std::less<>> by_name;

  const PackedTensor* find(std::string_view name) const {
    const auto it = by_name.find(name);
    return it == by_name.end() ? nullptr : it->second;
  }
  const PackedTensor& tensor(std::string_view name) const {
    const PackedTensor* found = find(name);
    TRIREME_CHECK_MSG(found != nullptr, "no such tensor in the packed model");
    return *found;
  }
  std::span<const std::byte> data() const { return file.bytes().subspan(header.data_begin); }

  bool holds(const ShardPlan& shard, PackedLayout::BlockId id) const {
    const WeightSpec& spec = header.layout.tensors[static_cast<size_t>(id.tensor)].spec;
    return shard_blocks(spec, shard, header.config.tie_embeddings).contains(id.block);
  }
  std::span<const std::byte> checked_bytes(PackedLayout::BlockId id) const {
    const PackedBlock& block = header.layout.at(id);
    return data().subspan(block.offset, block.end - block.offset);
  }
  uint64_t checksum(PackedLayout::BlockId id) const {
    return header.checksums[static_cast<size_t>(id.tensor)][static_cast<size_t>(id.block)];
  }
  std::string damage_text(PackedLayout::BlockId id) const {
    const PackedTensor& damaged = header.layout.tensors[static_cast<size_t>(id.tensor)];
    return fmt::format("{}: at byte {}: {} {} of \"{}\" is damaged (its checksum does not fit); {}",
                       path.string(), header.data_begin + header.layout.at(id).offset,
                       block_name(damaged.spec.split), id.block, damaged.spec.name,
                       remake_hint(path));
  }
};

PackedModel::PackedModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
PackedModel::~PackedModel() = default;

std::shared_ptr<const PackedModel> PackedModel::open(const std::filesystem::path& path) {
  MappedFile file(path);
  PackedHeader header = read_packed_header(file.bytes(), path.string());
  auto state = std::make_unique<State>(State{path, std::move(file), std::move(header), {}});
  for (const PackedTensor& tensor : state->header.layout.tensors) {
    state->by_name[tensor.spec.name] = &tensor;
  }
  if (state->header.config.tie_embeddings) {
    state->by_name["lm_head"] = &state->tensor("embedding");
  }
  return std::shared_ptr<const PackedModel>(new PackedModel(std::move(state)));
}

const ModelConfig& PackedModel::config() const { return state_->header.config; }
WeightFormat PackedModel::format() const { return state_->header.encodings.usual.format; }
const PackedEncodings& PackedModel::encodings() const { return state_->header.encodings; }
uint64_t PackedModel::fingerprint() const {
  PackedHead head;
  std::memcpy(&head, state_->file.bytes().data(), sizeof(head));
  return head.header_checksum;
}
WeightEncoding PackedModel::encoding(std::string_view tensor) const {
  return state_->tensor(tensor).encoding;
}
const std::filesystem::path& PackedModel::path() const { return state_->path; }
uint64_t PackedModel::size_bytes() const { return state_->file.bytes().size(); }

PackedModel::Block PackedModel::block(std::string_view tensor, int index) const {
  const PackedTensor& packed = state_->tensor(tensor);
  TRIREME_CHECK(index >= 0 && static_cast<size_t>(index) < packed.blocks.size());
  const PackedBlock& block = packed.blocks[static_cast<size_t>(index)];
  const std::byte* data = state_->data().data();
  Block out;
  out.data = data + block.offset;
  const WeightEncoding encoding = packed.encoding;
  if (packed.spec.split != Split::kWhole && encoding.group != 0) {
    const BlockParts parts = block_parts_of(encoding, block.n, block.k);
    out.scales = reinterpret_cast<const BF16*>(out.data + parts.scales);
    if (encoding.has_zeros) out.zeros = reinterpret_cast<const uint8_t*>(out.data + parts.zeros);
  }
  out.size_bytes = block.size_bytes;
  if (block.bias_offset != 0) {
    out.bias = reinterpret_cast<const float*>(data + block.bias_offset);
  }
  out.n = block.n;
  out.k = block.k;
  return out;
}

int PackedModel::n_blocks(std::string_view tensor) const {
  return static_cast<int>(state_->tensor(tensor).blocks.size());
}

bool PackedModel::has(std::string_view tensor) const { return state_->find(tensor) != nullptr; }

// Checksums are compared a piece at a time, so that it can be stopped and made to wait.
std::string PackedModel::find_damage(const ShardPlan* shard,
                                     const std::function<bool(uint64_t, uint64_t)>& go_on) const {
  constexpr uint64_t kPieceBytes = 256U << 10U;
  std::vector<PackedLayout::BlockId> ids;
  uint64_t total = 0;
  for (const PackedLayout::BlockId id : state_->header.layout.order) {
    if (shard != nullptr && !state_->holds(*shard, id)) continue;
    ids.push_back(id);
    total += state_->checked_bytes(id).size();
  }
  uint64_t done = 0;
  uint64_t asked = 0;
  for (const PackedLayout::BlockId id : ids) {
    Checksum64 sum;
    for (auto bytes = state_->checked_bytes(id); !bytes.empty();) {
      const auto piece = bytes.first(std::min<uint64_t>(bytes.size(), kPieceBytes));
      sum.add(piece);
      bytes = bytes.subspan(piece.size());
      done += piece.size();
      if (done - asked < kPieceBytes && done < total) continue;
      asked = done;
      if (!go_on(done, total)) return "";
    }
    if (sum.value() != state_->checksum(id)) return state_->damage_text(id);
  }
  return "";
}

void PackedModel::verify(const std::function<void(uint64_t, uint64_t)>& on_progress) const {
  const std::string damage = find_damage(nullptr, [&](uint64_t done, uint64_t total) {
    if (on_progress) on_progress(done, total);
    return true;
  });
  if (!damage.empty()) throw EnvironmentError(damage);
}

}  // namespace trireme
