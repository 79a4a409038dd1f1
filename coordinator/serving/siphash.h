#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace trireme {

using SipKey = std::array<uint64_t, 2>;

// SipHash-2-4 (Aumasson and Bernstein, 2012): who does not know the key cannot make two inputs with
// the same hash.
uint64_t siphash(const SipKey& key, std::string_view bytes);

// From the system's random numbers.
SipKey draw_sip_key();

}  // namespace trireme
