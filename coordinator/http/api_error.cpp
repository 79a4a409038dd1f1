#include "coordinator/http/api_error.h"

#include <nlohmann/json.hpp>

namespace trireme {

std::string api_error_type(int status) {
  switch (status) {
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string api_error_body(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(text);
  };
  nlohmann::ordered_json inner;
  inner["message"] = error.message;
  inner["type"] = api_error_type(error.status);
  inner["param"] = text_or_null(error.param);
  inner["code"] = text_or_null(error.code);
  nlohmann::ordered_json outer;
  outer["error"] = std::move(inner);
  // Messages may quote what a client sent, valid UTF-8 or not.
  return outer.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

HttpResponse api_error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = api_error_body(error);
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after_seconds > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_seconds));
  }
  return response;
}

HttpResponse error_response_at(std::string_view path, const ApiError& error) {
  HttpResponse response = api_error_response(error);
  if (path != "/v2" && !path.starts_with("/v2/health/") && !path.starts_with("/v2/models/"))
    return response;
  response.body = nlohmann::ordered_json({{"error", error.message}})
                      .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return response;
}

}  // namespace trireme
