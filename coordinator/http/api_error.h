#pragma once

#include <string>
#include <string_view>

#include "coordinator/http/http_message.h"
#include "kernels/result.h"

namespace trireme {

// A refusal as OpenAI's clients expect it: {"error":{"message","type","param","code"}}.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param;            // "" is sent as null
  std::string code;             // "" is sent as null
  int retry_after_seconds = 0;  // 0: no Retry-After header
};

// The word clients switch on: invalid_request_error, rate_limit_error, server_error, ...
std::string api_error_type(int status);

// The JSON object alone, for a reply's body or an event of a stream.
std::string api_error_body(const ApiError& error);

HttpResponse api_error_response(const ApiError& error);
// The same in the form of the API that a request's path belongs to: below /v2, except for its
// rerank, {"error": message}.
HttpResponse error_response_at(std::string_view path, const ApiError& error);

}  // namespace trireme
