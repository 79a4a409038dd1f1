#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace trireme {

// 32 random hexadecimal digits from the system.
std::string random_secret();

// A new folder under TMPDIR (/tmp) that only this user can read. Throws EnvironmentError.
std::filesystem::path make_run_folder();

// The running program's own file.
std::filesystem::path own_executable();

// The first address of this host that is not loopback; "127.0.0.1" when it has none.
std::string first_address();

uint64_t memory_bytes();

}  // namespace trireme
