#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <variant>

#include "coordinator/http/chat_messages.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

using Json = OrderedJson;
using Reply = std::variant<OrderedJson, ApiError>;

constexpr size_t kMaxDetokenizeIds = 1U << 20;

Result<std::vector<int32_t>> encode_input(const Json& body, JsonFields& fields,
                                          const TextCodec& codec) {
  if (const Json* messages = fields.value("messages")) {
    const Result<ChatPromptOptions> options = read_chat_prompt_options(body);
    if (!options) return options.error();
    Result<Json> normal = normalize_messages(*messages);
    if (!normal) return normal.error();
    return codec.encode_chat(*normal, *options);
  }
  if (!fields.has("prompt")) return Error{"prompt or messages must be given", "prompt"};
  const std::string prompt = fields.string("prompt", "");
  const bool add_special_tokens = fields.boolean("add_special_tokens", true);
  if (fields.error()) return *fields.error();
  return codec.encode(prompt, add_special_tokens);
}

Reply tokenize(const ApiContext& context, const Json& body) {
  JsonFields fields(body);
  if (const auto error = check_model(fields, context.model)) return *error;
  const bool with_texts = fields.boolean("return_token_strs", false);
  if (fields.error()) return bad_request(*fields.error());
  const Result<std::vector<int32_t>> ids = encode_input(body, fields, context.codec);
  if (!ids) return bad_request(ids.error());
  OrderedJson reply;
  reply["count"] = ids->size();
  reply["max_model_len"] = context.model.context_length;
  reply["tokens"] = *ids;
  reply["token_strs"] = nullptr;
  if (with_texts) {
    reply["token_strs"] = OrderedJson::array();
    for (const int32_t id : *ids) reply["token_strs"].push_back(token_text(context.codec, id));
  }
  return reply;
}

Reply detokenize(const ApiContext& context, const Json& body) {
  JsonFields fields(body);
  if (const auto error = check_model(fields, context.model)) return *error;
  if (!fields.has("tokens")) fields.fail("tokens", "tokens is missing");
  const std::vector<int32_t> ids =
      fields.token_ids("tokens", context.model.vocab_size, kMaxDetokenizeIds);
  if (fields.error()) return bad_request(*fields.error());
  OrderedJson reply;
  reply["prompt"] = context.codec.decode(ids, /*skip_special_tokens=*/false);
  return reply;
}

Route text_route(const std::shared_ptr<ApiContext>& context, const char* path,
                 Reply (*answer)(const ApiContext&, const Json&)) {
  return {.method = "POST",
          .path = path,
          .cost = HandlerCost::kHeavy,
          .handler = [context, answer](const HttpRequest& request, const ResponderPtr& responder) {
            const Result<Json> body = parse_json_body(request.body);
            if (!body) return responder->reply(api_error_response(bad_request(body.error())));
            const Reply reply = answer(*context, *body);
            if (const auto* error = std::get_if<ApiError>(&reply)) {
              return responder->reply(api_error_response(*error));
            }
            responder->reply(json_response(std::get<OrderedJson>(reply)));
          }};
}

}  // namespace

std::vector<Route> tokenize_routes(const std::shared_ptr<ApiContext>& context) {
  return {text_route(context, "/tokenize", tokenize),
          text_route(context, "/detokenize", detokenize)};
}

}  // namespace trireme
