#include "coordinator/http/http_wire.h"

#include <fmt/format.h>

#include <array>

namespace trireme {
namespace {

struct StatusReason {
  int status;
  std::string_view reason;
};

constexpr std::array<StatusReason, 16> kReasons = {{{200, "OK"},
                                                    {202, "Accepted"},
                                                    {400, "Bad Request"},
                                                    {401, "Unauthorized"},
                                                    {404, "Not Found"},
                                                    {405, "Method Not Allowed"},
                                                    {408, "Request Timeout"},
                                                    {410, "Gone"},
                                                    {413, "Content Too Large"},
                                                    {415, "Unsupported Media Type"},
                                                    {417, "Expectation Failed"},
                                                    {429, "Too Many Requests"},
                                                    {431, "Request Header Fields Too Large"},
                                                    {500, "Internal Server Error"},
                                                    {501, "Not Implemented"},
                                                    {503, "Service Unavailable"}}};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string_view http_reason(int status) {
  for (const StatusReason& row : kReasons) {
    if (row.status == status) return row.reason;
  }
  return "";
}

std::string format_reply(const HttpResponse& response, bool keep_alive) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: trireme\r\n", response.status,
                                http_reason(response.status));
  if (!response.content_type.empty()) {
    out += fmt::format("Content-Type: {}\r\n", response.content_type);
  }
  for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
  out += fmt::format("Content-Length: {}\r\nConnection: {}\r\n\r\n",
                     response.source ? response.source->size_bytes() : response.body.size(),
                     keep_alive ? "keep-alive" : "close");
  out += response.body;
  return out;
}

std::string format_stream_head(bool chunked, bool keep_alive) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nServer: trireme\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
      "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n{}Connection: {}\r\n\r\n",
      chunked ? "Transfer-Encoding: chunked\r\n" : "", keep_alive ? "keep-alive" : "close");
}

std::string format_chunk(std::string_view bytes) {
  if (bytes.empty()) return "";
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

bool percent_decode(std::string_view text, std::string* out) {
  out->clear();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out->push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return false;
    const int high = hex_digit(text[i + 1]);
    const int low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return false;
    out->push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return true;
}

}  // namespace trireme
