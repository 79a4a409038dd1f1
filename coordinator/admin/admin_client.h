#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace trireme {

// Has a server of this user on this host carry out a command (admin_server.h), tells its progress
// and returns its result. `pid`: which one; 0: the only one there is, looked for among the run
// folders in `base`. Throws EnvironmentError: there is none, or more than one, it refuses, it ends,
// or the time is up.
std::string ask_server(const std::filesystem::path& base, int64_t pid, const std::string& command,
                       const nlohmann::json& arguments, std::chrono::seconds timeout,
                       const std::function<void(const std::string& progress)>& tell);

}  // namespace trireme
