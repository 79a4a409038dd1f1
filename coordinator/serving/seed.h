#pragma once

#include <cstdint>

namespace trireme {

// A sampling seed for a request that names none. Drawn once, at submit, and kept in the request's
// token log, so that a replay draws the same tokens.
uint64_t draw_seed();

}  // namespace trireme
