#pragma once

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>

#include "coordinator/http/api_error.h"
#include "coordinator/http/http_message.h"

// Private to coordinator/http: includes Boost.

namespace trireme {

using RequestParser = boost::beast::http::request_parser<boost::beast::http::string_body>;
using RequestHead = boost::beast::http::request_header<>;

// What the parser's refusal is in HTTP.
ApiError parse_failure(boost::beast::error_code ec, size_t max_header_bytes, size_t max_body_bytes);

// What the parser lets pass and this server does not: messages whose end two parties could see at
// different places (RFC 9112, section 6.3), a missing or repeated Host, unknown expectations.
std::optional<ApiError> check_head(const RequestHead& head, unsigned http_version);

// Whether a whole head, as it came, has a field that goes on in the next line or a line that does
// not end in CR LF: a proxy in front may have read another message (RFC 9112, sections 2.2
// and 5.2).
bool has_odd_lines(std::string_view head);

// The target's path, percent-decoded, without the query. An error when the target is not a path.
Result<std::string> request_path(const RequestHead& head);

// Takes the body out of the parser. An error when the target is not a path.
Result<HttpRequest> take_request(RequestParser& parser);

}  // namespace trireme
