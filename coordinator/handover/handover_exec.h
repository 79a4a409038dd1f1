#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/handover/handover_state.h"

namespace trireme {

// The environment variable that tells a program that it takes over, and from which descriptor.
constexpr const char* kHandoverVariable = "TRIREME_HANDOVER";

// Has this process go on as `program`, with these arguments (the first one is replaced) and the
// state. On the main thread: the children that another one started would get their death signal.
// Returns only when that failed, with the reason; all is as before then.
std::string exec_handover(const std::filesystem::path& program, std::vector<std::string> arguments,
                          const HandoverState& state);

// What the program before this one in the process left; none for a program that was just started.
// Its descriptors are close-on-exec again. Throws EnvironmentError.
std::optional<HandoverState> take_handover();

}  // namespace trireme
