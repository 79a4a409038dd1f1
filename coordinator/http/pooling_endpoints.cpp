// The endpoints that answer with numbers: embeddings, scores, ranks, classes.

#include <nlohmann/json.hpp>

#include "coordinator/handover/api_state.h"
#include "coordinator/http/cache_fields.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/pooling_job.h"
#include "kernels/check.h"

namespace trireme {
namespace {

void handle_pooling(const std::shared_ptr<ApiContext>& context, const PoolingKind& kind,
                    HttpRequest request, const ResponderPtr& responder) {
  const auto refuse = [&](const ApiError& error) {
    if (error.code == "context_length_exceeded") context->metrics.count_rejection("context_length");
    responder->reply(api_error_response(error));
  };
  const Result<OrderedJson> body = parse_json_body(request.body);
  if (!body) return refuse(bad_request(body.error()));
  if (const auto error = check_available(*context)) return refuse(*error);
  ParsedPooling parsed = kind.parse(*body, context->model, context->codec);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);

  auto& call = std::get<PoolingCall>(parsed);
  keep_cache_apart(&call.cache_salt, request.key_name);
  auto numbers = context->numbers.take(call.n_numbers());
  if (numbers == nullptr) {
    context->metrics.count_rejection("memory");
    return refuse(
        {.status = 503,
         .message = "the answers under way hold as many numbers as may be; try again later",
         .param = "",
         .code = "numbers_full",
         .retry_after_seconds = 1});
  }
  const auto job = std::make_shared<PoolingJob>(std::move(call),
                                                PoolingJob::Parts{.context = context,
                                                                  .kind = &kind,
                                                                  .request = std::move(request),
                                                                  .responder = responder,
                                                                  .numbers = std::move(numbers)});
  context->pooling_jobs.add(job);
  job->start();
}

}  // namespace

void take_over_pooling(const std::shared_ptr<ApiContext>& context,
                       const std::vector<PoolingState>& requests,
                       const std::map<int, ResponderPtr>& responders) {
  for (const PoolingState& state : requests) {
    const auto responder = responders.find(state.connection);
    if (responder == responders.end()) continue;  // its client is gone
    for (const PoolingKind& kind : kPoolingKinds) {
      if (state.endpoint != kind.path) continue;
      HttpRequest request;
      request.body = state.body;
      request.key_name = state.key_name;
      context->pool->post([context, &kind, request, responder = responder->second] {
        handle_pooling(context, kind, request, responder);
      });
    }
  }
}

std::vector<Route> pooling_routes(const std::shared_ptr<ApiContext>& context) {
  std::vector<Route> routes;
  for (const PoolingKind& kind : kPoolingKinds) {
    routes.push_back(
        {.method = "POST",
         .path = kind.path,
         .cost = HandlerCost::kHeavy,
         .handler = [context, &kind](HttpRequest request, const ResponderPtr& responder) {
           handle_pooling(context, kind, std::move(request), responder);
         }});
  }
  return routes;
}

}  // namespace trireme
