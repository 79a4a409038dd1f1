#pragma once

#include <array>
#include <cstdint>

namespace trireme {

// Philox4x32-10: a counter-based generator (Salmon et al., Parallel random numbers: as easy as 1,
// 2, 3, SC 2011). The same key and counter give the same numbers on every machine, in any order.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The noise of one sampled token: uniform in (0, 1), a function of the three only.
double sampling_noise(uint64_t seed, uint32_t choice, uint32_t output_index);

}  // namespace trireme
