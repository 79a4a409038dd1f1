#pragma once

#include <string>

#include "coordinator/http/http_message.h"

namespace trireme {

// One line about a request, with its body: for logs, and only where they were asked for. Control
// characters are escaped, so that no client can write lines of its own; long bodies are cut.
std::string request_log_line(const HttpRequest& request);

}  // namespace trireme
