#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "comm/control/build_id.h"
#include "coordinator/http/api_server.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/openapi.h"
#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

ApiError unavailable(std::string message) {
  return {.status = 503,
          .message = std::move(message),
          .param = "",
          .code = "unavailable",
          .retry_after_seconds = 2};
}

OrderedJson model_json(const ModelInfo& model) {
  OrderedJson json;
  json["id"] = model.id;
  json["object"] = "model";
  json["created"] = model.created;
  json["owned_by"] = "trireme";
  json["root"] = model.id;
  json["parent"] = nullptr;
  json["max_model_len"] = model.context_length;
  return json;
}

HttpResponse get_models(ApiContext& context, const HttpRequest& /*request*/) {
  OrderedJson json;
  json["object"] = "list";
  json["data"] = OrderedJson::array({model_json(context.model)});
  return json_response(json);
}

HttpResponse get_model(ApiContext& context, const HttpRequest& request) {
  if (const auto error = check_served(context, request.path_tail))
    return api_error_response(*error);
  return json_response(model_json(context.model));
}

HttpResponse get_health(ApiContext& context, const HttpRequest& /*request*/) {
  if (const auto error = check_alive(context)) return api_error_response(*error);
  return json_response({{"status", "ok"}});
}

HttpResponse get_ready(ApiContext& context, const HttpRequest& /*request*/) {
  if (const auto error = check_ready(context)) return api_error_response(*error);
  return json_response({{"status", "ready"}});
}

HttpResponse get_ping(ApiContext& /*context*/, const HttpRequest& /*request*/) {
  return json_response({{"status", "ok"}});
}

HttpResponse get_version(ApiContext& /*context*/, const HttpRequest& /*request*/) {
  return json_response({{"version", build_id()}});
}

HttpResponse get_load(ApiContext& context, const HttpRequest& /*request*/) {
  const ServiceStatus status = context.status();
  return json_response({{"server_load", status.n_running + status.n_waiting}});
}

HttpResponse get_openapi(ApiContext& /*context*/, const HttpRequest& /*request*/) {
  HttpResponse response;
  response.body = openapi_yaml();
  response.content_type = "application/yaml";
  return response;
}

HttpResponse get_metrics(ApiContext& context, const HttpRequest& /*request*/) {
  context.metrics.set_status(context.status());
  HttpResponse response;
  response.body = context.metrics.serialize();
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  return response;
}

}  // namespace

ServiceStatus ApiContext::status() {
  ServiceStatus now = service.status();
  if (now.ready) was_ready = true;
  if (draining) now.draining = true;
  return now;
}

std::optional<ApiError> check_served(const ApiContext& context, const std::string& model) {
  if (model == context.model.id) return std::nullopt;
  return ApiError{.status = 404,
                  .message = fmt::format("the model \"{}\" does not exist here; this server has "
                                         "\"{}\"",
                                         model, context.model.id),
                  .param = "model",
                  .code = "model_not_found"};
}

std::optional<ApiError> check_alive(ApiContext& context) {
  const ServiceStatus status = context.status();
  if (status.alive) return std::nullopt;
  return unavailable("no group can answer: " + status.problem);
}

std::optional<ApiError> check_ready(ApiContext& context) {
  const ServiceStatus status = context.status();
  if (status.draining) return unavailable("the server is shutting down");
  if (!status.ready) return unavailable("not ready: " + status.problem);
  return std::nullopt;
}

Route status_route(const std::shared_ptr<ApiContext>& context, const char* path,
                   StatusAnswer answer, RouteAccess access) {
  return {.method = "GET",
          .path = path,
          .cost = HandlerCost::kQuick,
          .handler =
              [context, answer](const HttpRequest& request, const ResponderPtr& responder) {
                responder->reply(answer(*context, request));
              },
          .access = access};
}

std::vector<Route> status_routes(const std::shared_ptr<ApiContext>& context) {
  using enum RouteAccess;
  return {status_route(context, "/v1/models", get_models, kKey),
          status_route(context, "/v1/models/*", get_model, kKey),
          status_route(context, "/health", get_health, kOpen),
          status_route(context, "/ready", get_ready, kOpen),
          status_route(context, "/ping", get_ping, kOpen),
          status_route(context, "/version", get_version, kOpen),
          status_route(context, "/openapi.yaml", get_openapi, kOpen),
          status_route(context, "/load", get_load, kMetrics),
          status_route(context, "/metrics", get_metrics, kMetrics)};
}

}  // namespace trireme
