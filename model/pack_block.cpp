#include "model/pack_block.h"

#include <algorithm>
#include <cstring>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "model/float_formats.h"

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
template <float (*Convert)(uint16_t)>
struct Read16 {
  static constexpr int64_t kSize = 2;
  static float at(const std::byte* data) {
    uint16_t bits = 0;
    std::memcpy(&bits, data, sizeof(bits));
    return Convert(bits);
  }
};
using ReadF16 = Read16<f16_to_float>;
using ReadBF16 = Read16<+[](uint16_t bits) { return to_float(BF16{bits}); }>;

void store(float value, float& out) { out = value; }
void store(float value, BF16& out) { out = to_bf16(value); }

// Element (column, k) of a panel, in elements: bf16 has two consecutive K side by side.
template <typename Out>
constexpr int64_t panel_index(int64_t column, int64_t k) {
  if constexpr (sizeof(Out) == sizeof(float)) return k * kPanelColumns + column;
  return k / 2 * 2 * kPanelColumns + column * 2 + k % 2;
}

template <typename Read, typename Out>
void pack_as(const SourceTensor& source, const PackedBlock& block, Out* out) {
  const int64_t row_bytes = source.shape[1] * Read::kSize;
  const int64_t panel_size = k_padded(WeightFormat::kBF16, block.k) * kPanelColumns;
  std::fill_n(out, n_padded(block.n) * k_padded(WeightFormat::kBF16, block.k), Out{});
  for (int64_t column = 0; column < block.n; ++column) {
    const std::byte* row =
        source.data + (block.n_begin + column) * row_bytes + block.k_begin * Read::kSize;
    Out* panel = out + column / kPanelColumns * panel_size;
    const int64_t lane = column % kPanelColumns;
    for (int64_t k = 0; k < block.k; ++k) {
      store(Read::at(row + k * Read::kSize), panel[panel_index<Out>(lane, k)]);
    }
  }
}

template <typename Out>
void pack_from(const SourceTensor& source, const PackedBlock& block, Out* out) {
  switch (source.dtype) {
    case SourceDType::kF32: return pack_as<ReadF32>(source, block, out);
    case SourceDType::kF16: return pack_as<ReadF16>(source, block, out);
    case SourceDType::kBF16: return pack_as<ReadBF16>(source, block, out);
    case SourceDType::kOther: break;
  }
  TRIREME_CHECK_MSG(false, "a source type that is not read");
}

}  // namespace

void pack_panels(const SourceTensor& source, const PackedBlock& block, WeightFormat format,
                 std::span<std::byte> out) {
  TRIREME_CHECK(source.shape.size() == 2);
  TRIREME_CHECK(block.n_begin + block.n <= source.shape[0]);
  TRIREME_CHECK(block.k_begin + block.k <= source.shape[1]);
  TRIREME_CHECK(out.size() == static_cast<size_t>(
                                  block_parts_of(default_encoding(format), block.n, block.k).size));
  if (format == WeightFormat::kF32) {
    pack_from(source, block, reinterpret_cast<float*>(out.data()));
  } else {
    pack_from(source, block, reinterpret_cast<BF16*>(out.data()));
  }
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
