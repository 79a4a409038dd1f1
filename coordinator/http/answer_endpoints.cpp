// Answers that a journal keeps: taken up again at start, and given to clients that come back.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/generation_kind.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/kept_answer.h"
#include "coordinator/http/key_fields.h"
#include "coordinator/http/query.h"

namespace trireme {
namespace {

// Starts of a coordinator that were cut short before the answer got further: it may be the cause.
constexpr int32_t kMaxResumes = 8;

ApiError server_error(std::string message, const char* code) {
  return {.status = 500, .message = std::move(message), .param = "", .code = code};
}

ApiError not_found(const std::string& id) {
  return {.status = 404,
          .message = fmt::format("there is no answer {} here: it never was, or was kept as long as "
                                 "answers are",
                                 id),
          .param = "id",
          .code = "answer_not_found"};
}

// For the moment between an answer's end and the commit that says so.
ApiError ending() {
  return {.status = 503,
          .message = "the end of this answer is being written",
          .param = "id",
          .code = "answer_not_found",
          .retry_after_seconds = 1};
}

// Whether the text layer of this server is that of a request with such weights.
bool reads_answers_of(const ServedWeights& now, const std::string& weights) {
  return weights == now.id ||
         std::find(now.before.begin(), now.before.end(), weights) != now.before.end();
}

// The request as it was understood when it came; `readable`: by a server with the text layer of
// this one.
ParsedCall parse_again(const ApiContext& context, const JournaledRequest& request, bool readable) {
  const GenerationKind* kind = kind_of(request.endpoint);
  if (kind == nullptr || !readable) {
    return server_error(
        "the answer was begun with other weights than this server has; send the "
        "request again",
        "other_weights");
  }
  Result<nlohmann::ordered_json> body = parse_json_body(request.body);
  if (!body) return bad_request(body.error());
  ParsedCall parsed = kind->parse(*body, context.model, context.codec);
  if (auto* call = std::get_if<GenerationCall>(&parsed)) {
    if (call->n_choices() != request.n_choices || call->prompts.size() != request.prompts.size())
      return server_error("the server reads this request otherwise than when it came",
                          "other_form");
    call->sampling.seed = request.seed;
    call->max_new_tokens = request.max_new_tokens;
    give_to_key(&call->tenant, &call->cache_salt, request.key_name);
    set_key_priority(&call->priority, *body, context.keys.terms(request.key_name));
    for (size_t i = 0; i < call->prompts.size(); ++i) call->prompts[i].ids = request.prompts[i];
  }
  return parsed;
}

// Whether it came with the same API key as its request. Without keys, everybody may ask.
bool may_ask(const HttpRequest& request, const JournaledRequest& kept) {
  return request.key_name.empty() || request.key_name == kept.key_name;
}

}  // namespace

void resume_answer(const std::shared_ptr<ApiContext>& context, const Journal::EntryPtr& entry) {
  const JournaledRequest& request = entry->request();
  const auto end = [&](const ApiError& error) {
    spdlog::warn("the answer {} cannot go on: {}", request.id, error.message);
    context->keeper->journal().end(entry, {.status = error.status, .error = api_error_body(error)});
  };
  if (entry->n_resumes() > kMaxResumes) {
    return end(server_error(fmt::format("the server ended {} times while it computed this answer; "
                                        "it is not tried again",
                                        kMaxResumes),
                            "generation_failed"));
  }
  const auto weights = context->service.weights();
  ParsedCall parsed = parse_again(*context, request, request.weights == weights->id);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return end(*error);
  auto& call = std::get<GenerationCall>(parsed);
  make_job(context, {.endpoint = request.endpoint, .id = request.id, .created = request.created},
           std::move(call), weights, nullptr, GenerationJob::Kept{context->keeper, entry},
           context->keys.go_on(request.key_name))
      ->start();
}

namespace {

// An answer that has ended, from the file.
void reply_stored(const ApiContext& context, const GenerationKind& kind,
                  const JournaledAnswer& answer, bool streams, const std::string& last_event_id,
                  const ResponderPtr& responder) {
  const auto refuse = [&](const ApiError& error) { responder->reply(api_error_response(error)); };
  const JournaledRequest& request = answer.request;
  const bool whole = answer.end.error.empty();
  if (!streams && !whole) return responder->reply(error_of(answer.end));
  ParsedCall parsed =
      parse_again(context, request, reads_answers_of(*context.service.weights(), request.weights));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);
  const auto& call = std::get<GenerationCall>(parsed);
  Result<StreamPosition> from = parse_position(call, last_event_id);
  if (!from) return refuse(bad_request(from.error()));
  std::vector<const ChoiceLog*> logs;
  for (const ChoiceLog& log : answer.choices) logs.push_back(&log);
  const auto form = streams ? AnswerWriter::Form::kStream : AnswerWriter::Form::kWhole;
  AnswerWriter writer(
      call, context.codec,
      kind.make_format(reply_options(context, call, request.id, request.created), context.codec),
      {.form = form, .with_ids = true, .from = *from});
  replay_logs(writer, logs, *from);
  if (!streams) return responder->reply(writer.whole());
  whole ? writer.finish() : writer.fail(answer.end.error);
  responder->start_stream();
  const std::string rest = writer.take();
  responder->write(std::string(first_events(rest, context.keeper->max_rest_bytes())));
  responder->finish();
}

struct Wanted {
  bool streams = false;
  std::string last_event_id;  // of what the client has; "": nothing
};

// As browsers ask for the rest of a stream, by header fields, or as OpenAI's clients do.
Result<Wanted> read_wanted(const HttpRequest& request) {
  Wanted wanted{.streams = request.accept.find("text/event-stream") != std::string::npos,
                .last_event_id = request.last_event_id};
  const auto stream = query_value(request.query, "stream");
  if (!stream) return stream.error();
  const auto after = query_value(request.query, "starting_after");
  if (!after) return after.error();
  if (wanted.last_event_id.empty()) wanted.last_event_id = after->value_or("");
  wanted.streams |= *stream == "true" || !wanted.last_event_id.empty();
  return wanted;
}

void handle_answer(const std::shared_ptr<ApiContext>& context, const GenerationKind& kind,
                   const HttpRequest& request, const ResponderPtr& responder) {
  const auto refuse = [&](const ApiError& error) { responder->reply(api_error_response(error)); };
  const std::string& id = request.path_tail;
  if (!id.starts_with(kind.id_prefix)) return refuse(not_found(id));
  const Result<Wanted> wanted = read_wanted(request);
  if (!wanted) return refuse(bad_request(wanted.error()));
  const auto& [streams, last_event_id] = *wanted;
  if (const std::shared_ptr<GenerationJob> job = context->keeper->find(id)) {
    if (!may_ask(request, job->kept_request())) return refuse(not_found(id));
    if (!streams) return job->reply_whole(responder);
    Result<StreamPosition> from = job->parse_position(last_event_id);
    if (!from) return refuse(bad_request(from.error()));
    return job->attach(responder, *std::move(from));
  }
  const std::optional<JournaledAnswer> answer = context->keeper->journal().find(id);
  if (!answer || !may_ask(request, answer->request)) return refuse(not_found(id));
  if (!answer->ended) return refuse(ending());
  reply_stored(*context, kind, *answer, streams, last_event_id, responder);
}

}  // namespace

void resume_answers(const std::shared_ptr<ApiContext>& context) {
  if (context->keeper == nullptr) return;
  for (const Journal::EntryPtr& entry : context->keeper->journal().take_unfinished())
    resume_answer(context, entry);
}

std::vector<Route> answer_routes(const std::shared_ptr<ApiContext>& context) {
  std::vector<Route> routes;
  if (context->keeper == nullptr) return routes;
  for (const GenerationKind& kind : kGenerationKinds) {
    routes.push_back(
        {.method = "GET",
         .path = kind.answers_path,
         .cost = HandlerCost::kHeavy,
         .handler = [context, kind](const HttpRequest& request, const ResponderPtr& responder) {
           handle_answer(context, kind, request, responder);
         }});
  }
  return routes;
}

}  // namespace trireme
