#include <nlohmann/json.hpp>

#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/generation_job.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/request_parsers.h"

namespace trireme {
namespace {

using ParseCall = ParsedCall (*)(const nlohmann::ordered_json&, const ModelInfo&, const TextCodec&);
using MakeFormat = std::unique_ptr<ReplyFormat> (*)(ReplyOptions, const TextCodec&);

// What differs between the generation endpoints.
struct GenerationKind {
  ParseCall parse;
  MakeFormat make_format;
};

void handle_generation(const std::shared_ptr<ApiContext>& context, const GenerationKind& kind,
                       const HttpRequest& request, const ResponderPtr& responder) {
  const auto refuse = [&](const ApiError& error) {
    if (error.code == "context_length_exceeded") context->metrics.count_rejection("context_length");
    responder->reply(api_error_response(error));
  };
  Result<nlohmann::ordered_json> body = parse_json_body(request.body);
  if (!body) return refuse(bad_request(body.error()));
  if (const auto error = check_available(*context)) return refuse(*error);
  ParsedCall parsed = kind.parse(*body, context->model, context->codec);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);

  auto& call = std::get<GenerationCall>(parsed);
  ReplyOptions options{
      .model = context->model.id, .n_logprobs = call.n_logprobs, .null_usage = call.include_usage};
  GenerationJob::Parts parts{
      .service = context->service,
      .codec = context->codec,
      .pool = context->pool,
      .responder = responder,
      .format = kind.make_format(std::move(options), context->codec),
      .refusal = [context](const Error& error) { return submit_refusal(*context, error); }};
  std::make_shared<GenerationJob>(std::move(call), std::move(parts))->start();
}

Route generation_route(const std::shared_ptr<ApiContext>& context, const char* path,
                       GenerationKind kind) {
  return {.method = "POST",
          .path = path,
          .cost = HandlerCost::kHeavy,
          .handler = [context, kind](const HttpRequest& request, const ResponderPtr& responder) {
            handle_generation(context, kind, request, responder);
          }};
}

}  // namespace

std::optional<ApiError> check_available(ApiContext& context) {
  const ServiceStatus status = context.status();
  const auto refuse = [&context](const char* reason, std::string message, int seconds) {
    context.metrics.count_rejection(reason);
    return ApiError{.status = 503,
                    .message = std::move(message),
                    .param = "",
                    .code = reason,
                    .retry_after_seconds = seconds};
  };
  if (status.draining) {
    return refuse("draining", "the server is shutting down and takes no new requests", 5);
  }
  if (!status.alive) return refuse("unavailable", "no group can answer: " + status.problem, 30);
  // A group that was lost is relaunched, and requests wait for it; one that never served may be
  // far from ready.
  if (!status.ready && !context.was_ready) {
    return refuse("unavailable", "the model is not ready yet: " + status.problem, 2);
  }
  return std::nullopt;
}

ApiError submit_refusal(ApiContext& context, const Error& error) {
  if (error.param == "queue") {
    context.metrics.count_rejection("queue_full");
    // A full queue in front of a group that serves empties; without one, nobody can say when.
    return {.status = context.status().ready ? 429 : 503,
            .message = error.message,
            .param = "",
            .code = "queue_full",
            .retry_after_seconds = 1};
  }
  if (error.param == "draining" || error.param == "unavailable") {
    context.metrics.count_rejection(error.param);
    return {.status = 503,
            .message = error.message,
            .param = "",
            .code = error.param,
            .retry_after_seconds = 5};
  }
  return bad_request(error);
}

std::vector<Route> generation_routes(const std::shared_ptr<ApiContext>& context) {
  return {
      generation_route(context, "/v1/completions",
                       {.parse = parse_completion_request, .make_format = make_completion_format}),
      generation_route(context, "/v1/chat/completions",
                       {.parse = parse_chat_request, .make_format = make_chat_format}),
  };
}

}  // namespace trireme
