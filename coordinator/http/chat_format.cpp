#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

class ChatFormat final : public ReplyFormat {
 public:
  ChatFormat(ReplyOptions options, const TextCodec& codec)
      : envelope_{options.id, options.created, options.model},
        options_(std::move(options)),
        codec_(codec) {}

  HttpResponse reply(const std::vector<ChoiceText>& choices, const Usage& usage) override {
    OrderedJson json = envelope_.begin("chat.completion");
    json["choices"] = OrderedJson::array();
    for (const ChoiceText& choice : choices) {
      OrderedJson message;
      message["role"] = "assistant";
      const bool says_else = !choice.reasoning.empty() || !choice.calls.empty();
      message["content"] =
          choice.text.empty() && says_else ? OrderedJson() : OrderedJson(choice.text);
      if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
      if (!choice.calls.empty()) message["tool_calls"] = calls_json(choice, /*in_stream=*/false);
      json["choices"].push_back(choice_json(choice, "message", std::move(message)));
    }
    json["usage"] = usage_json(usage);
    if (options_.prompt_logprobs)
      json["prompt_logprobs"] = prompt_logprobs_json(choices.front().prompt_tokens, codec_);
    if (options_.token_ids) json["prompt_token_ids"] = choices.front().prompt_ids;
    return json_response(json);
  }

  ReplyEvents chunk(const ChoiceText& part, const Usage* usage) override {
    OrderedJson delta;
    if (!part.reasoning.empty()) delta["reasoning_content"] = part.reasoning;
    if (!part.calls.empty()) delta["tool_calls"] = calls_json(part, /*in_stream=*/true);
    if (!part.text.empty() || delta.empty()) delta["content"] = part.text;
    return {chunk_of(part, std::move(delta), usage)};
  }

  ReplyEvents opening(int index, const Usage* usage) override {
    OrderedJson delta;
    delta["role"] = "assistant";
    delta["content"] = "";
    ChoiceText empty;
    empty.index = index;
    return {chunk_of(empty, std::move(delta), usage)};
  }

  ReplyEvents usage_chunk(const Usage& usage) override {
    OrderedJson json = envelope_.begin("chat.completion.chunk");
    json["choices"] = OrderedJson::array();
    json["usage"] = usage_json(usage);
    return {{.data = dump_json(json)}};
  }

 private:
  ReplyEvent chunk_of(const ChoiceText& part, OrderedJson delta, const Usage* usage) const {
    OrderedJson json = envelope_.begin("chat.completion.chunk");
    json["choices"] = OrderedJson::array({choice_json(part, "delta", std::move(delta))});
    if (usage != nullptr) {
      json["usage"] = usage_json(*usage);
    } else if (options_.null_usage) {
      json["usage"] = nullptr;
    }
    if (!part.prompt_ids.empty()) json["prompt_token_ids"] = part.prompt_ids;
    return {.data = dump_json(json)};
  }

  OrderedJson choice_json(const ChoiceText& choice, const char* key, OrderedJson value) const {
    OrderedJson json;
    json["index"] = choice.index;
    json[key] = std::move(value);
    // A part without tokens (the first, or a last one of held-back text) has nothing to say.
    const bool with_logprobs = options_.n_logprobs != kNoLogprobs && !choice.tokens.empty();
    json["logprobs"] = with_logprobs ? logprobs_json(choice) : OrderedJson(nullptr);
    const bool calls = choice.finish == FinishReason::kStop && choice.has_calls;
    json["finish_reason"] = calls ? OrderedJson("tool_calls") : finish_reason_json(choice.finish);
    if (options_.token_ids) json["token_ids"] = choice.token_ids;
    return json;
  }

  // In a stream, later parts of a call have nothing but more arguments.
  OrderedJson calls_json(const ChoiceText& choice, bool in_stream) const {
    OrderedJson calls = OrderedJson::array();
    for (const ToolCallPart& call : choice.calls) {
      OrderedJson json;
      if (in_stream) json["index"] = call.index;
      if (!call.name.empty()) {
        json["id"] = tool_call_id(options_.id, choice.index, call.index);
        json["type"] = "function";
        json["function"]["name"] = call.name;
      }
      json["function"]["arguments"] = call.arguments;
      calls.push_back(std::move(json));
    }
    return calls;
  }

  OrderedJson token_json(int32_t id, float logprob) const {
    const std::string text = token_text(codec_, id);
    OrderedJson bytes = OrderedJson::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
    OrderedJson json;
    json["token"] = token_name(codec_, id, options_);
    json["logprob"] = logprob;
    json["bytes"] = std::move(bytes);
    return json;
  }

  OrderedJson logprobs_json(const ChoiceText& choice) const {
    OrderedJson content = OrderedJson::array();
    for (const TokenInfo& token : choice.tokens) {
      OrderedJson json = token_json(token.id, token.logprob);
      json["top_logprobs"] = OrderedJson::array();
      for (const TokenLogprob& row : token.top) {
        json["top_logprobs"].push_back(token_json(row.token_id, row.logprob));
      }
      content.push_back(std::move(json));
    }
    OrderedJson json;
    json["content"] = std::move(content);
    return json;
  }

  const ReplyEnvelope envelope_;
  const ReplyOptions options_;
  const TextCodec& codec_;
};

}  // namespace

std::unique_ptr<ReplyFormat> make_chat_format(ReplyOptions options, const TextCodec& codec) {
  return std::make_unique<ChatFormat>(std::move(options), codec);
}

}  // namespace trireme
