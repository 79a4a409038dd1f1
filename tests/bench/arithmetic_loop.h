#pragma once

#include <cstdint>

namespace trireme::bench {

constexpr int kChains = 12;  // independent sums: more than latency times units

// n_rounds rounds of `step` on every chain. Each instruction set's file has a copy of its own.
template <typename Vector, typename Step>
[[gnu::always_inline]] inline void run_chains(int64_t n_rounds, Step step) {
  Vector chains[kChains] = {};
  for (int64_t round = 0; round < n_rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) step(chains[i]);
  }
}

}  // namespace trireme::bench
