#include "model/pack_block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "kernels/f16.h"
#include "kernels/int_math.h"
#include "model/quantize.h"

namespace trireme {
namespace {

// Readers of one element of a source, at any alignment.
struct ReadF32 {
  static constexpr int64_t kSize = 4;
  static float at(const std::byte* data) {
    float value = 0.0F;
    std::memcpy(&value, data, sizeof(value));
    return value;
  }
};
template <typename Half>
struct Read16 {
  static constexpr int64_t kSize = 2;
  static float at(const std::byte* data) {
    Half value;
    std::memcpy(&value, data, sizeof(value));
    return to_float(value);
  }
};
using ReadF16 = Read16<F16>;
using ReadBF16 = Read16<BF16>;

constexpr int64_t kLanes = kPanelColumns;

// A piece of a panel on its way: numbers as float32, one column in each lane.
struct Tile {
  explicit Tile(int64_t k_max) : values(static_cast<size_t>(k_max * kLanes)) {}
  std::vector<float> values;  // [k][kLanes]; zeros where it pads
  int64_t column = 0;         // of the block; a multiple of kLanes
  int64_t k_begin = 0;
  int64_t k = 0;  // padded
};

// Inputs of a tile: whole groups, few enough to stay in the nearest cache.
int64_t tile_k(WeightEncoding encoding) {
  constexpr int64_t kUsual = 256;
  return encoding.group == 0 ? kUsual : round_up<int64_t>(kUsual, encoding.group);
}

template <typename Read>
void load_as(const SourceTensor& source, const PackedBlock& block, Tile& tile) {
  const int64_t k_end = std::min<int64_t>(tile.k_begin + tile.k, block.k);
  const int64_t n_inputs = k_end - tile.k_begin;
  const int64_t n_columns = std::min<int64_t>(block.n - tile.column, kLanes);
  if (n_columns < kLanes || n_inputs < tile.k) {
    std::fill(tile.values.begin(), tile.values.end(), 0.0F);
  }
  for (int64_t lane = 0; lane < n_columns; ++lane) {
    const int64_t row = block.n_begin + tile.column + lane;
    const std::byte* from =
        source.data + (row * source.shape[1] + block.k_begin + tile.k_begin) * Read::kSize;
    float* to = tile.values.data() + lane;
    for (int64_t k = 0; k < n_inputs; ++k) to[k * kLanes] = Read::at(from + k * Read::kSize);
  }
}

void load(const SourceTensor& source, const PackedBlock& block, Tile& tile) {
  switch (source.dtype) {
    case SourceDType::kF32: return load_as<ReadF32>(source, block, tile);
    case SourceDType::kF16: return load_as<ReadF16>(source, block, tile);
    case SourceDType::kBF16: return load_as<ReadBF16>(source, block, tile);
    case SourceDType::kOther: break;
  }
  TRIREME_CHECK_MSG(false, "a source type that is not read");
}

constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

// The least magnitude that a format cannot hold, as bits of a float32: they order like numbers.
int32_t first_impossible(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF16: return 0x477ff000;  // 65520, which rounds to infinity
    case WeightFormat::kI8:
    case WeightFormat::kI4: return 0x7f800000;  // infinity
    case WeightFormat::kF32:
    case WeightFormat::kBF16: break;
  }
  return kNoLimit;
}

int32_t magnitude_bits(float value) {
  return static_cast<int32_t>(std::bit_cast<uint32_t>(value) & 0x7fffffffU);
}

std::optional<PackFault> find_fault(const Tile& tile, const PackedBlock& block,
                                    int32_t impossible) {
  if (impossible == kNoLimit) return std::nullopt;
  const int64_t size = tile.k * kLanes;
  int32_t largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    largest = std::max(largest, magnitude_bits(tile.values[static_cast<size_t>(i)]));
  }
  if (largest < impossible) return std::nullopt;
  for (int64_t i = 0; i < size; ++i) {
    const float value = tile.values[static_cast<size_t>(i)];
    if (magnitude_bits(value) < impossible) continue;
    return PackFault{.n = block.n_begin + tile.column + i % kLanes,
                     .k = block.k_begin + tile.k_begin + i / kLanes,
                     .value = value};
  }
  return std::nullopt;
}

// Writes tiles to where they belong in a block.
class TileWriter {
 public:
  TileWriter(const PackedBlock& block, WeightEncoding encoding, std::byte* out)
      : encoding_(encoding),
        k_padded_(k_padded(encoding.format, block.k)),
        n_groups_(k_groups(encoding, block.k)),
        data_(out),
        scales_(reinterpret_cast<BF16*>(out + block_parts_of(encoding, block.n, block.k).scales)),
        levels_(
            static_cast<size_t>(is_quantized(encoding.format) ? tile_k(encoding) * kLanes : 0)) {}

  void write(const Tile& tile) {
    const int64_t at = tile.column * k_padded_ + tile.k_begin * kLanes;  // numbers before it
    std::byte* out = data_ + weight_bytes(encoding_.format, at);
    const float* values = tile.values.data();
    switch (encoding_.format) {
      case WeightFormat::kF32:
        std::memcpy(out, values, static_cast<size_t>(tile.k * kLanes) * sizeof(float));
        break;
      case WeightFormat::kF16: write_f16(values, tile.k, reinterpret_cast<F16*>(out)); break;
      case WeightFormat::kBF16: write_bf16(values, tile.k, reinterpret_cast<BF16*>(out)); break;
      case WeightFormat::kI8:
        quantize(tile, quantize_int8);
        write_int8(tile.k, reinterpret_cast<uint8_t*>(out));
        break;
      case WeightFormat::kI4:
        quantize(tile, quantize_int4);
        write_int4(tile.k, reinterpret_cast<uint8_t*>(out));
        break;
    }
  }

 private:
  static void write_f16(const float* values, int64_t k, F16* out) {
    for (int64_t i = 0; i < k * kLanes; ++i) out[i] = to_f16(values[i]);
  }

  // Two consecutive inputs of a column lie side by side.
  static void write_bf16(const float* values, int64_t k, BF16* out) {
    for (int64_t pair = 0; pair < k / 2; ++pair, values += 2 * kLanes, out += 2 * kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        out[2 * lane] = to_bf16(values[lane]);
        out[2 * lane + 1] = to_bf16(values[kLanes + lane]);
      }
    }
  }

  template <typename Quantize>
  void quantize(const Tile& tile, const Quantize& quantize_group) {
    const int64_t panel = tile.column / kLanes;
    for (int64_t begin = 0; begin < tile.k; begin += encoding_.group) {
      const int64_t size = std::min<int64_t>(encoding_.group, tile.k - begin);
      const int64_t group = panel * n_groups_ + (tile.k_begin + begin) / encoding_.group;
      quantize_group(tile.values.data() + begin * kLanes, size, levels_.data() + begin * kLanes,
                     scales_ + group * kLanes);
    }
  }

  // Four consecutive inputs of a column lie side by side.
  void write_int8(int64_t k, uint8_t* out) const {
    const uint8_t* levels = levels_.data();
    for (int64_t four = 0; four < k / 4; ++four, levels += 4 * kLanes, out += 4 * kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t j = 0; j < 4; ++j) out[lane * 4 + j] = levels[j * kLanes + lane];
      }
    }
  }

  // Of eight inputs of a column, the first four in the low halves, the others in the high ones.
  void write_int4(int64_t k, uint8_t* out) const {
    const uint8_t* levels = levels_.data();
    for (int64_t eight = 0; eight < k / 8; ++eight, levels += 8 * kLanes, out += 4 * kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t j = 0; j < 4; ++j) {
          out[lane * 4 + j] = static_cast<uint8_t>(levels[j * kLanes + lane] |
                                                   levels[(4 + j) * kLanes + lane] << 4U);
        }
      }
    }
  }

  WeightEncoding encoding_;
  int64_t k_padded_;
  int64_t n_groups_;
  std::byte* data_;
  BF16* scales_;
  std::vector<uint8_t> levels_;  // [tile_k()][kLanes]
};

}  // namespace

std::optional<PackFault> pack_panels(const SourceTensor& source, const PackedBlock& block,
                                     WeightEncoding encoding, std::span<std::byte> out) {
  const BlockParts parts = block_parts_of(encoding, block.n, block.k);
  TRIREME_CHECK(source.shape.size() == 2);
  TRIREME_CHECK(block.n_begin + block.n <= source.shape[0]);
  TRIREME_CHECK(block.k_begin + block.k <= source.shape[1]);
  TRIREME_CHECK(out.size() == static_cast<size_t>(parts.size));
  TRIREME_CHECK(encoding == default_encoding(encoding.format));  // others are read, not written
  std::fill(out.begin(), out.end(), std::byte{});                // what lies between the parts
  const int64_t k_max = tile_k(encoding);
  const int64_t k_end = k_padded(encoding.format, block.k);
  const int32_t impossible = first_impossible(encoding.format);
  Tile tile(k_max);
  TileWriter writer(block, encoding, out.data());
  for (tile.column = 0; tile.column < block.n; tile.column += kLanes) {
    for (tile.k_begin = 0; tile.k_begin < k_end; tile.k_begin += k_max) {
      tile.k = std::min(k_max, k_end - tile.k_begin);
      load(source, block, tile);
      if (auto fault = find_fault(tile, block, impossible)) return fault;
      writer.write(tile);
    }
  }
  return std::nullopt;
}

void pack_vector(const SourceTensor& source, int64_t begin, int64_t count, std::span<float> out) {
  TRIREME_CHECK(source.shape.size() == 1 && begin + count <= source.shape[0]);
  TRIREME_CHECK(static_cast<int64_t>(out.size()) >= count);
  std::fill(out.begin(), out.end(), 0.0F);
  for (int64_t i = 0; i < count; ++i) {
    float& value = out[static_cast<size_t>(i)];
    switch (source.dtype) {
      case SourceDType::kF32: value = ReadF32::at(source.data + (begin + i) * 4); break;
      case SourceDType::kF16: value = ReadF16::at(source.data + (begin + i) * 2); break;
      case SourceDType::kBF16: value = ReadBF16::at(source.data + (begin + i) * 2); break;
      case SourceDType::kOther: TRIREME_CHECK_MSG(false, "a source type that is not read");
    }
  }
}

}  // namespace trireme
