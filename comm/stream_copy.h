#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace trireme::detail {

// Copies to memory that another core reads next. Stores past the caches: ordinary ones would first
// have to take each line back from the reader's cache, which between two core complexes costs 20
// times as much. The bytes are out when this returns, for a release that follows.
inline void stream_copy(void* to, const void* from, size_t size_bytes) {
#if defined(__SSE2__)
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  constexpr size_t kLine = 64;
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(out) % kLine) % kLine;
  if (size_bytes >= head + kLine) {
    std::memcpy(out, in, head);
    size_t at = head;
    for (; at + kLine <= size_bytes; at += kLine) {
      for (size_t i = at; i < at + kLine; i += sizeof(__m128i)) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(out + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
      }
    }
    std::memcpy(out + at, in + at, size_bytes - at);
    _mm_sfence();
    return;
  }
#endif
  std::memcpy(to, from, size_bytes);
}

}  // namespace trireme::detail
