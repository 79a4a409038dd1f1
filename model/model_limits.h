#pragma once

#include <cstdint>

namespace trireme {

// Limits on what a config may ask for: far above any model there is, and low enough that no product
// of two of them overflows 64 bits and no index overflows 32.
constexpr int32_t kMaxHiddenSize = 1 << 17;
constexpr int32_t kMaxIntermediateSize = 1 << 20;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxHeadDim = 1024;
constexpr int32_t kMaxVocabSize = 1 << 22;
constexpr int32_t kMaxPosition = 1 << 24;
constexpr int32_t kMaxEndTokens = 64;
constexpr double kMaxNormEps = 0.1;

}  // namespace trireme
