#pragma once

#include <array>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_job.h"
#include "coordinator/http/request_parsers.h"

namespace trireme {

// What differs between the generation endpoints.
struct GenerationKind {
  const char* path;
  const char* answers_path;  // GET: an answer by its id
  const char* id_prefix;
  ParsedCall (*parse)(const nlohmann::ordered_json&, const ModelInfo&, const TextCodec&);
  std::unique_ptr<ReplyFormat> (*make_format)(ReplyOptions, const TextCodec&);
};

inline constexpr std::array<GenerationKind, 3> kGenerationKinds = {{
    {"/v1/completions", "/v1/completions/*", "cmpl-", parse_completion_request,
     make_completion_format},
    {"/v1/chat/completions", "/v1/chat/completions/*", "chatcmpl-", parse_chat_request,
     make_chat_format},
    {"/v1/responses", "/v1/responses/*", "resp_", parse_responses_request, make_responses_format},
}};

// Of the Open Inference Protocol. Its requests are not in JSON alone: infer_request reads them.
inline constexpr GenerationKind kInferKind = {"/v2/models/*/infer", nullptr, "infer-", nullptr,
                                              make_infer_format};

// Answers a request whose bytes said `body`, or why they said nothing. `parse` makes its call.
void answer_generation(const std::shared_ptr<ApiContext>& context, const GenerationKind& kind,
                       const HttpRequest& request, const ResponderPtr& responder,
                       const Result<nlohmann::ordered_json>& body,
                       const std::function<ParsedCall(const nlohmann::ordered_json& body)>& parse);

// Null: no endpoint has this path, or not for requests in JSON alone.
const GenerationKind* kind_of(const std::string& path);

// What a kind's format is made with, for one request.
ReplyOptions reply_options(const ApiContext& context, const GenerationCall& call, std::string id,
                           int64_t created);

// `name.endpoint` is a kind's path, or kInferKind's.
std::shared_ptr<GenerationJob> make_job(const std::shared_ptr<ApiContext>& context, AnswerName name,
                                        GenerationCall call,
                                        std::shared_ptr<const ServedWeights> weights,
                                        ResponderPtr responder,
                                        std::optional<GenerationJob::Kept> kept,
                                        KeyAccounts::Lease key_lease = nullptr);

}  // namespace trireme
