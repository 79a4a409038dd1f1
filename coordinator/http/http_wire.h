#pragma once

#include <string>
#include <string_view>

#include "coordinator/http/http_message.h"

namespace trireme {

// Text forms of HTTP/1.1 (RFC 9110, RFC 9112). Pure.

// "OK" for 200, and so on; "" for one that this server never sends.
std::string_view http_reason(int status);

// Head and body of a whole reply; the head alone where the body comes from a source.
std::string format_reply(const HttpResponse& response, bool keep_alive);

// Head of an event stream. With `chunked` the parts that follow are format_chunk's; without (an
// HTTP/1.0 client) they go as they are and the end is the connection's.
std::string format_stream_head(bool chunked, bool keep_alive);

// One chunk of the chunked transfer coding; "" for no bytes (a chunk of none would end the body).
std::string format_chunk(std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// "%2F" -> "/". False when an escape is cut short, not hexadecimal, or a NUL.
bool percent_decode(std::string_view text, std::string* out);

}  // namespace trireme
