#include "model/trace.h"

#include <array>

namespace trireme {
namespace {

constexpr std::array<std::string_view, 14> kNames = {
    "embedding",  "input_norm", "query",         "key",
    "value",      "attention",  "attention_out", "attention_residual",
    "post_norm",  "activation", "mlp_out",       "mlp_residual",
    "final_norm", "logits",
};

// FNV-1a, 64 bits (Fowler, Noll, Vo).
uint64_t hash_bytes(uint64_t hash, const unsigned char* p, size_t n) {
  for (size_t i = 0; i < n; ++i) hash = (hash ^ p[i]) * 0x100000001b3ULL;
  return hash;
}

}  // namespace

std::string_view trace_op_name(int32_t op) {
  if (op < 0 || static_cast<size_t>(op) >= kNames.size()) return "unknown";
  return kNames[static_cast<size_t>(op)];
}

void TraceSink::add(int32_t layer, TraceOp op, int32_t unit, Tensor x, int64_t begin, int64_t end) {
  TRIREME_CHECK(x.device.kind == DeviceKind::kCpu);
  const size_t size = dtype_size(x.dtype);
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (int64_t r = 0; r < x.shape[0]; ++r) {
    const auto* row = static_cast<const unsigned char*>(x.data) +
                      static_cast<size_t>(r * x.row_stride + begin) * size;
    hash = hash_bytes(hash, row, static_cast<size_t>(end - begin) * size);
  }
  entries_.push_back({layer, static_cast<int32_t>(op), unit, hash});
}

}  // namespace trireme
