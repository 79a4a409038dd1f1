#include <nlohmann/json.hpp>

#include "coordinator/http/chat_messages.h"
#include "coordinator/http/conversation.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/reply_parts.h"
#include "coordinator/http/request_parsers.h"
#include "coordinator/http/response_input.h"
#include "coordinator/http/tool_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// What an answer repeats of its request, checked before.
std::string repeated_fields(const JsonFields& fields) {
  Json repeated;
  const auto put = [&](const char* name, Json otherwise) {
    const Json* value = fields.value(name);
    repeated[name] = value == nullptr ? std::move(otherwise) : *value;
  };
  put("instructions", nullptr);
  put("max_output_tokens", nullptr);
  put("metadata", Json::object());
  put("parallel_tool_calls", true);
  put("temperature", 1.0);
  put("top_p", 1.0);
  put("text", Json::object());
  if (!repeated["text"].contains("format")) repeated["text"]["format"] = {{"type", "text"}};
  put("tool_choice", "auto");
  put("tools", Json::array());
  put("user", nullptr);
  return dump_json(repeated);
}

}  // namespace

ParsedCall parse_responses_request(const Json& body, const ModelInfo& model,
                                   const TextCodec& codec) {
  JsonFields fields(body);
  if (auto error = check_model(fields, model)) return *error;
  if (auto error = check_unsupported(fields)) return *error;
  if (auto error = check_unsupported_in_responses(fields)) return *error;
  GenerationCall call;
  read_generation_fields(fields, model, codec, &call, FormatField::kText);
  call.include_usage = true;  // in the last event
  call.continuous_usage = false;
  fields.object("metadata");
  const int64_t max_tokens = fields.integer("max_output_tokens", 0, 1, model.context_length);
  const Truncation truncation = read_truncation(fields, model);
  if (fields.error()) return bad_request(*fields.error());

  const Result<Json> chat = read_response_tools(body);
  if (!chat) return bad_request(chat.error());
  JsonFields tool_fields(*chat);
  const Json* tools = read_tool_fields(tool_fields, model, codec, &call);
  if (tool_fields.error()) return bad_request(*tool_fields.error());
  Result<ChatPromptOptions> options = read_chat_prompt_options(body);
  if (!options) return bad_request(options.error());
  options->tools = tools;
  const Result<Json> messages = read_response_input(body);
  if (!messages) return bad_request(messages.error());
  if (auto error = encode_conversation({.field = "input",
                                        .messages = *messages,
                                        .options = *options,
                                        .max_tokens = max_tokens,
                                        .truncation = truncation},
                                       model, codec, &call))
    return *error;
  call.response_fields = repeated_fields(fields);
  return call;
}

}  // namespace trireme
