#include "coordinator/http/http_request_head.h"

#include <fmt/format.h>

#include <boost/beast/http/error.hpp>
#include <string>

#include "coordinator/http/http_wire.h"

namespace trireme {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

size_t count_fields(const RequestHead& head, http::field name) {
  const auto range = head.equal_range(name);
  return static_cast<size_t>(std::distance(range.first, range.second));
}

ApiError malformed(std::string message) {
  return ApiError{.status = 400, .message = std::move(message), .param = "", .code = ""};
}

}  // namespace

ApiError parse_failure(beast::error_code ec, size_t max_header_bytes, size_t max_body_bytes) {
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return ApiError{
        .status = 431,
        .message = fmt::format("the request's header is longer than {} bytes", max_header_bytes),
        .param = "",
        .code = "header_too_large"};
  }
  if (ec == http::error::body_limit) {
    return ApiError{
        .status = 413,
        .message = fmt::format("the request's body is longer than {} bytes", max_body_bytes),
        .param = "",
        .code = "body_too_large"};
  }
  return malformed(fmt::format("malformed HTTP request: {}", ec.message()));
}

bool HeadLines::take(std::string_view bytes) {
  for (const char c : bytes) {
    if (at_ == At::kEnd) return true;
    if (at_ == At::kBehindCr) {
      if (c != '\n') return false;
      at_ = line_is_empty_ ? At::kEnd : At::kLineBegin;
      line_is_empty_ = true;
    } else if (c == '\r') {
      at_ = At::kBehindCr;
    } else {
      if (c == '\n' || (at_ == At::kLineBegin && (c == ' ' || c == '\t'))) return false;
      at_ = At::kInLine;
      line_is_empty_ = false;
    }
  }
  return true;
}

std::optional<ApiError> check_head(const RequestHead& head, unsigned http_version) {
  const size_t n_lengths = count_fields(head, http::field::content_length);
  const size_t n_encodings = count_fields(head, http::field::transfer_encoding);
  if (n_lengths > 1) return malformed("malformed HTTP request: several Content-Length fields");
  const auto length = head[http::field::content_length];
  if (length.find_first_not_of("0123456789") != length.npos) {
    return malformed("malformed HTTP request: Content-Length must be one decimal number");
  }
  if (n_encodings > 0) {
    if (n_lengths > 0) {
      return malformed("malformed HTTP request: both Content-Length and Transfer-Encoding");
    }
    const auto coding = head[http::field::transfer_encoding];
    if (n_encodings > 1 || http_version < 11 || !beast::iequals(coding, "chunked")) {
      return malformed("malformed HTTP request: the only Transfer-Encoding taken is chunked");
    }
  }
  const size_t n_hosts = count_fields(head, http::field::host);
  if (n_hosts > 1 || (n_hosts == 0 && http_version >= 11)) {
    return malformed("malformed HTTP request: there must be one Host field");
  }
  const auto expectation = head[http::field::expect];
  if (!expectation.empty() && !beast::iequals(expectation, "100-continue")) {
    return ApiError{
        .status = 417, .message = "the only Expect taken is 100-continue", .param = "", .code = ""};
  }
  const auto encoding = head[http::field::content_encoding];
  if (!encoding.empty() && !beast::iequals(encoding, "identity")) {
    return ApiError{.status = 415,
                    .message = "compressed request bodies are not supported: send it plain",
                    .param = "",
                    .code = ""};
  }
  return std::nullopt;
}

Result<std::string> request_path(const RequestHead& head) {
  const std::string_view target(head.target().data(), head.target().size());
  if (!target.starts_with('/')) {
    return Error{"malformed HTTP request: the target must be a path that starts with /", ""};
  }
  std::string path;
  if (!percent_decode(target.substr(0, target.find('?')), &path)) {
    return Error{"malformed HTTP request: bad percent escape in the path", ""};
  }
  return path;
}

Result<HttpRequest> read_head(const RequestHead& head) {
  Result<std::string> path = request_path(head);
  if (!path) return path.error();
  HttpRequest request;
  request.path = std::move(*path);
  request.method = std::string(head.method_string());
  const std::string_view target(head.target().data(), head.target().size());
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  request.content_type = std::string(head[http::field::content_type]);
  request.accept = std::string(head[http::field::accept]);
  request.last_event_id = std::string(head["Last-Event-ID"]);
  request.infer_header_length = std::string(head[kInferHeaderLength]);
  return request;
}

Result<HttpRequest> take_request(RequestParser& parser) {
  auto& message = parser.get();
  Result<HttpRequest> request = read_head(message.base());
  if (request) request->body = std::move(message.body());
  return request;
}

}  // namespace trireme
