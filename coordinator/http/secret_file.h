#pragma once

#include <filesystem>

namespace trireme {

// Throws EnvironmentError, naming `option` and the mend, unless `path` is a file that can be read
// here and that users other than its owner and group cannot touch.
void check_secret_file(const std::filesystem::path& path, const char* option);

}  // namespace trireme
