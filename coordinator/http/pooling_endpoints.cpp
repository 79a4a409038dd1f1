// The endpoints that answer with numbers: embeddings, scores, ranks, classes.

#include <nlohmann/json.hpp>

#include "coordinator/handover/api_state.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/key_fields.h"
#include "coordinator/http/pooling_job.h"

namespace trireme {
namespace {

void begin_pooling(const std::shared_ptr<ApiContext>& context, const PoolingKind& kind,
                   HttpRequest request, const ResponderPtr& responder,
                   KeyAccounts::Lease key_lease) {
  const auto refuse = [&](const ApiError& error) {
    key_lease.reset();
    if (error.code == "context_length_exceeded") context->metrics.count_rejection("context_length");
    responder->reply(api_error_response(error));
  };
  const Result<OrderedJson> body = parse_json_body(request.body);
  if (!body) return refuse(bad_request(body.error()));
  ParsedPooling parsed = kind.parse(*body, context->model, context->codec);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);

  auto& call = std::get<PoolingCall>(parsed);
  give_to_key(&call.tenant, &call.cache_salt, request.key_name);
  set_key_priority(&call.priority, *body, context->keys.terms(request.key_name));
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
  const auto job = std::make_shared<PoolingJob>(
      std::move(call), PoolingJob::Parts{.context = context,
                                         .kind = &kind,
                                         .request = std::move(request),
                                         .responder = responder,
                                         .numbers = std::move(numbers),
                                         .key_lease = std::move(key_lease)});
  context->pooling_jobs.add(job);
  job->start();
}

void handle_pooling(const std::shared_ptr<ApiContext>& context, const PoolingKind& kind,
                    HttpRequest request, const ResponderPtr& responder) {
  auto let = let_in(*context, request.key_name);
  if (const auto* error = std::get_if<ApiError>(&let))
    return responder->reply(api_error_response(*error));
  begin_pooling(context, kind, std::move(request), responder,
                std::get<KeyAccounts::Lease>(std::move(let)));
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
      context->pool->post([context, &kind, request, responder = responder->second,
                           lease = context->keys.go_on(state.key_name)]() mutable {
        begin_pooling(context, kind, std::move(request), responder, std::move(lease));
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
