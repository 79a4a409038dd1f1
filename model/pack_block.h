#pragma once

#include <cstddef>
#include <span>

#include "kernels/weight.h"
#include "model/packed_layout.h"
#include "model/safetensors.h"

namespace trireme {

// Packs the block's part of a weight `source` [n, k] into panels, as kernels/weight.h lays them
// out: out has packed_block_bytes() and is written whole, padding included. Values are converted to
// float32 exactly, or to bf16 to nearest even.
void pack_panels(const SourceTensor& source, const PackedBlock& block, WeightFormat format,
                 std::span<std::byte> out);

// Converts elements [begin, begin + count) of a vector to float32; the rest of `out` becomes zero.
void pack_vector(const SourceTensor& source, int64_t begin, int64_t count, std::span<float> out);

}  // namespace trireme
