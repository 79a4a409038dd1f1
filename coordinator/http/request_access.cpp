#include "coordinator/http/request_access.h"

#include <string_view>

namespace trireme {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::string_view kScheme = "Bearer ";

bool is_open(const RequestHead& head, const Router& router, bool protect_metrics) {
  const Result<std::string> path = request_path(head);
  if (!path) return false;
  const Router::Match match = router.find(std::string(head.method_string()), *path);
  if (match.route == nullptr) return false;
  switch (match.route->access) {
    case RouteAccess::kOpen: return true;
    case RouteAccess::kMetrics: return !protect_metrics;
    case RouteAccess::kKey: return false;
  }
  return false;
}

ApiError refusal(std::string message) {
  return {.status = 401, .message = std::move(message), .param = "", .code = "invalid_api_key"};
}

}  // namespace

std::optional<ApiError> check_access(const RequestHead& head, const Router& router,
                                     const HttpAccess& access, std::string* key_name) {
  key_name->clear();
  if (access.keys.empty() || is_open(head, router, access.protect_metrics)) return std::nullopt;
  const auto range = head.equal_range(http::field::authorization);
  if (range.first == range.second) {
    return refusal("this server needs an API key: send it as Authorization: Bearer KEY");
  }
  const std::string_view value(range.first->value().data(), range.first->value().size());
  if (std::next(range.first) != range.second || value.size() <= kScheme.size() ||
      !beast::iequals(beast::string_view(value.data(), kScheme.size()), "bearer ")) {
    return refusal("the API key must come in one header, Authorization: Bearer KEY");
  }
  const std::optional<std::string> name = access.keys.find(value.substr(kScheme.size()));
  if (!name) return refusal("this API key is not known here");
  *key_name = *name;
  return std::nullopt;
}

}  // namespace trireme
