#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/generation_kind.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/key_fields.h"
#include "coordinator/http/structure_fields.h"
#include "kernels/check.h"

namespace trireme {
namespace {

// With a journal, a stream's request is kept; what has no stream tells its id only at its end, when
// there is nothing to come back for.
bool is_kept(const ApiContext& context, const GenerationCall& call) {
  return context.keeper != nullptr && call.stream;
}

Result<std::optional<GenerationJob::Kept>> keep_request(const ApiContext& context,
                                                        const GenerationKind& kind,
                                                        const GenerationCall& call,
                                                        const std::string& id, int64_t created,
                                                        const std::string& weights,
                                                        const HttpRequest& request) {
  if (!is_kept(context, call)) return std::optional<GenerationJob::Kept>();
  std::vector<std::vector<int32_t>> prompts;
  for (const Prompt& prompt : call.prompts) prompts.push_back(prompt.ids);
  Result<Journal::EntryPtr> entry =
      context.keeper->journal().create({.id = id,
                                        .endpoint = kind.path,
                                        .key_name = request.key_name,
                                        .weights = weights,
                                        .body = request.body,
                                        .prompts = std::move(prompts),
                                        .created = created,
                                        .seed = call.sampling.seed,
                                        .max_new_tokens = call.max_new_tokens,
                                        .n_choices = call.n_choices(),
                                        .with_logprobs = call.n_logprobs != kNoLogprobs});
  if (!entry) return entry.error();
  return std::optional(GenerationJob::Kept{context.keeper, *std::move(entry)});
}

// The client's request_id is part of it. Who knows the id of a kept answer may ask for it, so that
// one cannot be guessed.
std::string answer_id(const ApiContext& context, const GenerationKind& kind,
                      const GenerationCall& call) {
  if (call.request_id.empty()) return draw_answer_id(kind.id_prefix);
  const std::string id = kind.id_prefix + call.request_id;
  return is_kept(context, call) ? draw_answer_id(id + "-") : id;
}

// Why no request can be taken now, or nothing.
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
  if (status.sleep == SleepPhase::kSettling || status.sleep == SleepPhase::kAsleep)
    return refuse("sleeping", status.problem, 5);
  // A group that was lost is relaunched, and requests wait for it; one that never served may be
  // far from ready.
  if (!status.ready && !context.was_ready) {
    return refuse("unavailable", "the model is not ready yet: " + status.problem, 2);
  }
  return std::nullopt;
}

ApiError too_many(const KeyAccounts& keys, const std::string& key_name) {
  return {.status = 429,
          .message = fmt::format("{} requests with this API key ({}) are being answered already, "
                                 "which is its limit; try again when one has ended",
                                 keys.terms(key_name).max_requests, key_name),
          .param = "",
          .code = "rate_limit_exceeded",
          .retry_after_seconds = 1};
}

Route generation_route(const std::shared_ptr<ApiContext>& context, const GenerationKind& kind) {
  return {.method = "POST",
          .path = kind.path,
          .cost = HandlerCost::kHeavy,
          .handler = [context, kind](const HttpRequest& request, const ResponderPtr& responder) {
            answer_generation(context, kind, request, responder, parse_json_body(request.body),
                              [&](const nlohmann::ordered_json& body) {
                                return kind.parse(body, context->model, context->codec);
                              });
          }};
}

}  // namespace

void answer_generation(const std::shared_ptr<ApiContext>& context, const GenerationKind& kind,
                       const HttpRequest& request, const ResponderPtr& responder,
                       const Result<nlohmann::ordered_json>& body,
                       const std::function<ParsedCall(const nlohmann::ordered_json& body)>& parse) {
  KeyAccounts::Lease key_lease;
  const auto refuse = [&](const ApiError& error) {
    key_lease.reset();
    if (error.code == "context_length_exceeded") context->metrics.count_rejection("context_length");
    responder->reply(error_response_at(kind.path, error));
  };
  if (!body) return refuse(bad_request(body.error()));
  auto let = let_in(*context, request.key_name);
  if (const auto* error = std::get_if<ApiError>(&let)) return refuse(*error);
  key_lease = std::get<KeyAccounts::Lease>(std::move(let));
  ParsedCall parsed = parse(*body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);

  auto& call = std::get<GenerationCall>(parsed);
  if (const auto error = check_grammar(context->guides.get(), call, context->model.vocab_size)) {
    return refuse(*error);
  }
  give_to_key(&call.tenant, &call.cache_salt, request.key_name);
  set_key_priority(&call.priority, *body, context->keys.terms(request.key_name));
  const std::string id = answer_id(*context, kind, call);
  const auto created = static_cast<int64_t>(std::time(nullptr));
  const auto weights = context->service.weights();
  auto kept = keep_request(*context, kind, call, id, created, weights->id, request);
  if (!kept) return refuse(submit_refusal(*context, kept.error()));
  make_job(context, {.endpoint = kind.path, .id = id, .created = created}, std::move(call), weights,
           responder, *std::move(kept), std::move(key_lease))
      ->start();
}

std::variant<KeyAccounts::Lease, ApiError> let_in(ApiContext& context,
                                                  const std::string& key_name) {
  if (auto error = check_available(context)) return *std::move(error);
  KeyAccounts::Lease lease = context.keys.enter(key_name);
  if (lease != nullptr) return lease;
  context.metrics.count_rejection("key_limit");
  return too_many(context.keys, key_name);
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
  if (error.param == "draining" || error.param == "unavailable" || error.param == "sleeping" ||
      error.param == "journal") {
    context.metrics.count_rejection(error.param);
    return {.status = 503,
            .message = error.message,
            .param = "",
            .code = error.param,
            .retry_after_seconds = 5};
  }
  return bad_request(error);
}

const GenerationKind* kind_of(const std::string& path) {
  for (const GenerationKind& kind : kGenerationKinds) {
    if (path == kind.path) return &kind;
  }
  return nullptr;
}

ReplyOptions reply_options(const ApiContext& context, const GenerationCall& call, std::string id,
                           int64_t created) {
  return {.id = std::move(id),
          .created = created,
          .model = context.model.id,
          .n_logprobs = call.n_logprobs,
          .null_usage = call.include_usage,
          .prompt_logprobs = call.n_prompt_logprobs != kNoLogprobs,
          .token_ids = call.return_token_ids,
          .tokens_as_ids = call.tokens_as_ids,
          .response_fields = call.response_fields,
          .tensors = call.tensors};
}

std::shared_ptr<GenerationJob> make_job(const std::shared_ptr<ApiContext>& context, AnswerName name,
                                        GenerationCall call,
                                        std::shared_ptr<const ServedWeights> weights,
                                        ResponderPtr responder,
                                        std::optional<GenerationJob::Kept> kept,
                                        KeyAccounts::Lease key_lease) {
  const GenerationKind* kind =
      name.endpoint == kInferKind.path ? &kInferKind : kind_of(name.endpoint);
  TRIREME_CHECK(kind != nullptr);
  auto make_format = [context, kind,
                      options = reply_options(*context, call, name.id, name.created)] {
    return kind->make_format(options, context->codec);
  };
  GenerationJob::Parts parts{
      .service = context->service,
      .codec = context->codec,
      .pool = context->pool,
      .weights = std::move(weights),
      .responder = std::move(responder),
      .name = std::move(name),
      .make_format = std::move(make_format),
      .refusal = [context](const Error& error) { return submit_refusal(*context, error); },
      .kept = std::move(kept),
      .key_lease = std::move(key_lease)};
  auto job = std::make_shared<GenerationJob>(std::move(call), parts);
  if (parts.kept) parts.kept->keeper->add(parts.kept->entry->request().id, job);
  context->jobs.add(job);
  return job;
}

std::vector<Route> generation_routes(const std::shared_ptr<ApiContext>& context) {
  std::vector<Route> routes;
  for (const GenerationKind& kind : kGenerationKinds)
    routes.push_back(generation_route(context, kind));
  return routes;
}

}  // namespace trireme
