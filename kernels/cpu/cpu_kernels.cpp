#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/int_math.h"
#include "kernels/kernel_table.h"

namespace trireme {

namespace portable {
extern const KernelTable kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
#endif

namespace {

struct CpuBackend {
  const KernelTable* table;
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
#endif

// Best first.
constexpr std::array kBackends = {
#if defined(__x86_64__)
    CpuBackend{&avx512::kTable, has_avx512},
    CpuBackend{&avx2::kTable, has_avx2},
#endif
    CpuBackend{&portable::kTable, [] { return true; }},
};

}  // namespace

const KernelTable* cpu_kernels(std::string_view name) {
  for (const CpuBackend& backend : kBackends) {
    if ((name.empty() || backend.table->name == name) && backend.runs_here()) return backend.table;
  }
  return nullptr;
}

size_t attention_scratch_bytes(int32_t max_tokens, int32_t head_dim) {
  // Where each tile of tokens begins, then records of rows: as many as keep the threads of a large
  // machine busy while a few sequences decode.
  constexpr int64_t kRecords = 4096;
  const int64_t record = round_up<int64_t>(head_dim, 16) + 32;
  const int64_t table = round_up<int64_t>((int64_t{max_tokens} + 1) * 4, 64);
  return static_cast<size_t>(table + kRecords * record * 4);
}

void set_float_mode() {
#if defined(__x86_64__)
  _MM_SET_ROUNDING_MODE(_MM_ROUND_NEAREST);
  _mm_setcsr(_mm_getcsr() & ~0x8040U);  // flush-to-zero and denormals-are-zero off
#endif
}

}  // namespace trireme
