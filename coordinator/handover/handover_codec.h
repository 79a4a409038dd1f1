#pragma once

#include <string>
#include <vector>

#include "coordinator/handover/handover_state.h"
#include "kernels/result.h"

namespace trireme {

// Of the state below, of what coordinator and ranks say to each other, and of packed files: only
// programs with the same one take over from each other. Changes with any of these.
constexpr int kHandoverVersion = 5;

// The version in clear, then CBOR (RFC 8949).
std::string encode_handover(const HandoverState& state);
// An error when it is of another version, or malformed.
Result<HandoverState> decode_handover(const std::string& bytes);

// Every descriptor in it.
std::vector<int> descriptors(const HandoverState& state);

}  // namespace trireme
