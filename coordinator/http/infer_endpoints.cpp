// The Open Inference Protocol ("KServe v2"), as clients of Triton and KServe speak it.

#include <nlohmann/json.hpp>

#include "comm/control/build_id.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_kind.h"
#include "coordinator/http/infer_request.h"
#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

HttpResponse refusal(const HttpRequest& request, const ApiError& error) {
  return error_response_at(request.path, error);
}

HttpResponse get_server(ApiContext& /*context*/, const HttpRequest& /*request*/) {
  return json_response({{"name", "trireme"},
                        {"version", build_id()},
                        {"extensions", {"binary_tensor_data", "parameters"}}});
}

HttpResponse get_live(ApiContext& context, const HttpRequest& request) {
  if (const auto error = check_alive(context)) return refusal(request, *error);
  return json_response({{"live", true}});
}

HttpResponse get_ready(ApiContext& context, const HttpRequest& request) {
  if (const auto error = check_ready(context)) return refusal(request, *error);
  return json_response({{"ready", true}});
}

HttpResponse get_model_ready(ApiContext& context, const HttpRequest& request) {
  if (const auto error = check_served(context, request.path_tail)) return refusal(request, *error);
  if (const auto error = check_ready(context)) return refusal(request, *error);
  return json_response({{"name", context.model.id}, {"ready", true}});
}

OrderedJson tensors_json(const std::vector<TensorInfo>& tensors) {
  OrderedJson list = OrderedJson::array();
  for (const TensorInfo& tensor : tensors) {
    list.push_back({{"name", tensor.name}, {"datatype", tensor.datatype}, {"shape", tensor.shape}});
  }
  return list;
}

HttpResponse get_model(ApiContext& context, const HttpRequest& request) {
  if (const auto error = check_served(context, request.path_tail)) return refusal(request, *error);
  OrderedJson json;
  json["name"] = context.model.id;
  json["versions"] = OrderedJson::array({kModelVersion});
  json["platform"] = "trireme";
  json["inputs"] = tensors_json(infer_inputs());
  json["outputs"] = tensors_json(infer_outputs());
  return json_response(json);
}

void handle_infer(const std::shared_ptr<ApiContext>& context, const HttpRequest& request,
                  const ResponderPtr& responder) {
  if (const auto error = check_served(*context, request.path_tail))
    return responder->reply(refusal(request, *error));
  using Fields = Result<OrderedJson>;
  Result<InferRequest> read = read_infer_request(request.infer_header_length, request.body);
  const Fields fields = read ? Fields(std::move(read->fields)) : Fields(read.error());
  answer_generation(context, kInferKind, request, responder, fields, [&](const OrderedJson& body) {
    return parse_infer_request(body, read->reply, context->model, context->codec);
  });
}

Route infer_route(const std::shared_ptr<ApiContext>& context, const char* path) {
  return {.method = "POST",
          .path = path,
          .cost = HandlerCost::kHeavy,
          .handler = [context](const HttpRequest& request, const ResponderPtr& responder) {
            handle_infer(context, request, responder);
          }};
}

}  // namespace

// The paths that another one's "*" would match come before it.
std::vector<Route> infer_routes(const std::shared_ptr<ApiContext>& context) {
  using enum RouteAccess;
  return {infer_route(context, "/v2/models/*/versions/1/infer"),
          infer_route(context, kInferKind.path),
          status_route(context, "/v2", get_server, kOpen),
          status_route(context, "/v2/health/live", get_live, kOpen),
          status_route(context, "/v2/health/ready", get_ready, kOpen),
          status_route(context, "/v2/models/*/versions/1/ready", get_model_ready, kKey),
          status_route(context, "/v2/models/*/ready", get_model_ready, kKey),
          status_route(context, "/v2/models/*/versions/1", get_model, kKey),
          status_route(context, "/v2/models/*", get_model, kKey)};
}

}  // namespace trireme
