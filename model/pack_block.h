#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kernels/weight.h"
#include "model/packed_layout.h"
#include "model/safetensors.h"

namespace trireme {

// A number that an encoding cannot hold, and where it stands in the whole tensor.
struct PackFault {
  int64_t n = 0;
  int64_t k = 0;
  float value = 0.0F;
};

// Packs the block's part of a weight `source` [n, k] as kernels/weight.h lays it out: out has
// block_parts_of().size bytes and is written whole, padding included. Values are converted to
// float32 exactly, to bf16 or f16 to nearest even, or quantized (model/quantize.h). float32 and
// bf16 hold any number; f16 none beyond 65504, and integers no infinity or NaN: such a number is
// told, and `out` is then unfinished.
std::optional<PackFault> pack_panels(const SourceTensor& source, const PackedBlock& block,
                                     WeightEncoding encoding, std::span<std::byte> out);

// Converts elements [begin, begin + count) of a vector to float32; the rest of `out` becomes zero.
void pack_vector(const SourceTensor& source, int64_t begin, int64_t count, std::span<float> out);

}  // namespace trireme
