#pragma once

#include <filesystem>
#include <memory>

#include "coordinator/http/http_message.h"

namespace trireme {

// A file as a response's body. Null when it cannot be opened.
std::shared_ptr<BodySource> open_stored_file(const std::filesystem::path& path);

}  // namespace trireme
