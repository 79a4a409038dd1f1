#pragma once

// Register tiles: how many rows and panels of 16 lanes the accumulators of one tile cover, with
// registers left for the operands. Private to isa_kernels.cpp.

namespace trireme::TRIREME_ISA {

#define TRIREME_UNROLL _Pragma("GCC unroll 8")

#if defined(TRIREME_ISA_avx512)
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
#elif defined(TRIREME_ISA_avx2)
constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
#else
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;
#endif

}  // namespace trireme::TRIREME_ISA
