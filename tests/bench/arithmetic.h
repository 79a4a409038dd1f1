#pragma once

#include <cstdint>

namespace trireme::bench {

// Loops of one multiply-add instruction on registers alone: what the processor can do at most.
struct Arithmetic {
  using Loop = void (*)(int64_t n_rounds);
  Loop f32 = nullptr;  // null: this instruction set has no such instruction
  Loop bf16 = nullptr;
  Loop int8 = nullptr;
  double f32_operations = 0;  // of one round; a multiply and an add are two
  double bf16_operations = 0;
  double int8_operations = 0;
};

// Only to be called where the instruction set is there.
Arithmetic avx2_arithmetic();
Arithmetic avx512_arithmetic();

}  // namespace trireme::bench
