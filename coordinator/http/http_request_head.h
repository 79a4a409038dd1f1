#pragma once

#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <optional>
#include <string>

#include "coordinator/http/api_error.h"
#include "coordinator/http/http_message.h"

// Private to coordinator/http: includes Boost.

namespace trireme {

// A body in a string that has room for what has come, not for what a client says will come; bytes
// may be taken out of it on the way.
struct RequestBody {
  using value_type = std::string;

  class reader {
   public:
    template <bool is_request, class Fields>
    reader(boost::beast::http::header<is_request, Fields>& /*head*/, std::string& body)
        : body_(body) {}

    void init(const boost::optional<uint64_t>& /*length*/, boost::beast::error_code& ec) {
      ec = {};
    }
    template <class Buffers>
    size_t put(const Buffers& buffers, boost::beast::error_code& ec) {
      size_t n_bytes = 0;
      for (const boost::asio::const_buffer buffer : boost::beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
        n_bytes += buffer.size();
      }
      ec = {};
      return n_bytes;
    }
    void finish(boost::beast::error_code& ec) { ec = {}; }

   private:
    std::string& body_;
  };
};

using RequestParser = boost::beast::http::request_parser<RequestBody>;
using RequestHead = boost::beast::http::request_header<>;

// What the parser's refusal is in HTTP.
ApiError parse_failure(boost::beast::error_code ec, size_t max_header_bytes, size_t max_body_bytes);

// What the parser lets pass and this server does not: messages whose end two parties could see at
// different places (RFC 9112, section 6.3), a missing or repeated Host, unknown expectations.
std::optional<ApiError> check_head(const RequestHead& head, unsigned http_version);

// Looks in a head, as it comes, for a field that goes on in the next line or a line that does not
// end in CR LF: a proxy in front may have read another message (RFC 9112, sections 2.2 and 5.2).
class HeadLines {
 public:
  // The bytes behind those of the last call; what is behind the head's end is not looked at. False:
  // there is such a line.
  bool take(std::string_view bytes);

 private:
  enum class At : uint8_t { kLineBegin, kInLine, kBehindCr, kEnd };

  At at_ = At::kLineBegin;
  bool line_is_empty_ = true;
};

// The target's path, percent-decoded, without the query. An error when the target is not a path.
Result<std::string> request_path(const RequestHead& head);

// What a head says of its request. An error when the target is not a path.
Result<HttpRequest> read_head(const RequestHead& head);

// The same, with the body out of the parser. An error when the target is not a path.
Result<HttpRequest> take_request(RequestParser& parser);

}  // namespace trireme
