#include "coordinator/http/request_log.h"

#include <fmt/format.h>

#include <string_view>

namespace trireme {
namespace {

constexpr size_t kMaxPathBytes = 256;
constexpr size_t kMaxBodyBytes = size_t{16} << 10;

void append_escaped(std::string_view text, size_t max_bytes, std::string& out) {
  for (const char c : text.substr(0, max_bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > max_bytes) out += fmt::format("... ({} bytes)", text.size());
}

}  // namespace

std::string request_log_line(const HttpRequest& request) {
  std::string line = fmt::format("request  {} {} ",
                                 request.key_name.empty() ? "-" : request.key_name, request.method);
  append_escaped(request.path, kMaxPathBytes, line);
  line += ' ';
  append_escaped(request.body, kMaxBodyBytes, line);
  return line;
}

}  // namespace trireme
