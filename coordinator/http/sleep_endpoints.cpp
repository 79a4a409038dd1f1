// A server that gives its memory back for a while, as vLLM's sleep mode has it (docs/sleep.md).
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/query.h"
#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

// vLLM's levels keep the weights in other memory or drop them; here they are always dropped, and
// come back from their file.
constexpr int64_t kLeastLevel = 1;
constexpr int64_t kMostLevel = 2;

constexpr std::array kModes = {std::pair("abort", SleepMode::kAbort),
                               std::pair("wait", SleepMode::kWait),
                               std::pair("keep", SleepMode::kKeep)};

Result<SleepMode> read_mode(std::string_view query) {
  const Result<std::optional<std::string>> name = query_value(query, "mode");
  if (!name) return name.error();
  for (const auto& [known, mode] : kModes) {
    if ((*name).value_or("abort") == known) return mode;
  }
  return Error{"mode must be abort, wait or keep", "mode"};
}

HttpResponse state_response(bool is_sleeping) {
  return json_response({{"is_sleeping", is_sleeping}});
}

// Answers when it is done, or was not.
InferenceService::SleepHandler answer(const ResponderPtr& responder, bool is_sleeping) {
  return [responder, is_sleeping](const std::string& failure) {
    responder->reply(
        failure.empty()
            ? state_response(is_sleeping)
            : api_error_response(
                  {.status = 409, .message = failure, .param = "", .code = "not_possible_now"}));
  };
}

void post_sleep(ApiContext& context, const HttpRequest& request, const ResponderPtr& responder) {
  const Result<int64_t> level = query_integer(request.query, "level", 1, kLeastLevel, kMostLevel);
  if (!level) return responder->reply(api_error_response(bad_request(level.error())));
  const Result<SleepMode> mode = read_mode(request.query);
  if (!mode) return responder->reply(api_error_response(bad_request(mode.error())));
  context.service.sleep(*mode, answer(responder, true));
}

void post_wake_up(ApiContext& context, const HttpRequest& /*request*/,
                  const ResponderPtr& responder) {
  context.service.wake_up(answer(responder, false));
}

HttpResponse get_is_sleeping(ApiContext& context, const HttpRequest& /*request*/) {
  const SleepPhase phase = context.status().sleep;
  return state_response(phase == SleepPhase::kAsleep || phase == SleepPhase::kWaking);
}

using Handle = void (*)(ApiContext&, const HttpRequest&, const ResponderPtr&);

Route sleep_route(const std::shared_ptr<ApiContext>& context, const char* path, Handle handle) {
  return {.method = "POST",
          .path = path,
          .cost = HandlerCost::kQuick,
          .handler = [context, handle](const HttpRequest& request, const ResponderPtr& responder) {
            handle(*context, request, responder);
          }};
}

}  // namespace

std::vector<Route> sleep_routes(const std::shared_ptr<ApiContext>& context) {
  if (!context->sleep_mode) return {};
  return {sleep_route(context, "/sleep", post_sleep),
          sleep_route(context, "/wake_up", post_wake_up),
          status_route(context, "/is_sleeping", get_is_sleeping, RouteAccess::kKey)};
}

}  // namespace trireme
