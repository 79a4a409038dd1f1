#include <nlohmann/json.hpp>

#include "coordinator/http/chat_messages.h"
#include "coordinator/http/conversation.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/request_parsers.h"
#include "coordinator/http/tool_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

void read_logprob_fields(JsonFields& fields, GenerationCall* call) {
  const bool logprobs = fields.boolean("logprobs", false);
  const int64_t top = fields.integer("top_logprobs", 0, 0, kMaxTopLogprobs);
  if (logprobs) {
    call->n_logprobs = static_cast<int32_t>(top);
  } else if (top > 0) {
    fields.fail("top_logprobs", "top_logprobs may only be given with logprobs: true");
  }
}

// 0 when the request does not say: then as many as the context has room for.
int64_t read_max_tokens(JsonFields& fields, const ModelInfo& model) {
  const int64_t old_name = fields.integer("max_tokens", 0, 1, model.context_length);
  return fields.integer("max_completion_tokens", old_name, 1, model.context_length);
}

}  // namespace

ParsedCall parse_chat_request(const Json& body, const ModelInfo& model, const TextCodec& codec) {
  JsonFields fields(body);
  if (auto error = check_model(fields, model)) return *error;
  if (auto error = check_unsupported(fields)) return *error;
  GenerationCall call;
  read_generation_fields(fields, model, codec, &call);
  read_logprob_fields(fields, &call);
  const Json* tools = read_tool_fields(fields, model, codec, &call);
  const int64_t max_tokens = read_max_tokens(fields, model);
  const Truncation truncation = read_truncation(fields, model);
  if (!fields.has("messages")) fields.fail("messages", "messages is missing");
  if (fields.boolean("echo", false)) {
    fields.fail("echo", "echo is not supported on this endpoint in this version");
  }
  if (fields.error()) return bad_request(*fields.error());

  Result<ChatPromptOptions> options = read_chat_prompt_options(body);
  if (!options) return bad_request(options.error());
  options->tools = tools;
  const Result<Json> messages = normalize_messages(*fields.value("messages"));
  if (!messages) return bad_request(messages.error());
  if (auto error = encode_conversation({.field = "messages",
                                        .messages = *messages,
                                        .options = *options,
                                        .max_tokens = max_tokens,
                                        .truncation = truncation},
                                       model, codec, &call))
    return *error;
  const char* logprobs = call.n_logprobs > 0 ? "top_logprobs" : "logprobs";
  if (auto error = check_logprobs(call, model, logprobs)) return *error;
  return call;
}

}  // namespace trireme
