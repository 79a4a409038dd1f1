#include "coordinator/http/reply_parts.h"

namespace trireme {
namespace {

class CompletionFormat final : public ReplyFormat {
 public:
  CompletionFormat(ReplyOptions options, const TextCodec& codec)
      : envelope_{options.id, options.created, options.model},
        options_(std::move(options)),
        codec_(codec) {}

  HttpResponse reply(const std::vector<ChoiceText>& choices, const Usage& usage) override {
    OrderedJson json = envelope_.begin("text_completion");
    json["choices"] = OrderedJson::array();
    for (const ChoiceText& choice : choices) json["choices"].push_back(choice_json(choice));
    json["usage"] = usage_json(usage);
    return json_response(json);
  }

  ReplyEvents chunk(const ChoiceText& part, const Usage* usage) override {
    OrderedJson json = envelope_.begin("text_completion");
    json["choices"] = OrderedJson::array({choice_json(part)});
    set_usage(&json, usage);
    return {{.data = dump_json(json)}};
  }

  ReplyEvents opening(int /*index*/, const Usage* /*usage*/) override { return {}; }

  ReplyEvents usage_chunk(const Usage& usage) override {
    OrderedJson json = envelope_.begin("text_completion");
    json["choices"] = OrderedJson::array();
    json["usage"] = usage_json(usage);
    return {{.data = dump_json(json)}};
  }

 private:
  void set_usage(OrderedJson* json, const Usage* usage) const {
    if (usage != nullptr) {
      (*json)["usage"] = usage_json(*usage);
    } else if (options_.null_usage) {
      (*json)["usage"] = nullptr;
    }
  }

  OrderedJson choice_json(const ChoiceText& choice) const {
    OrderedJson json;
    json["index"] = choice.index;
    json["text"] = choice.text;
    json["logprobs"] =
        options_.n_logprobs == kNoLogprobs ? OrderedJson(nullptr) : logprobs_json(choice);
    json["finish_reason"] = finish_reason_json(choice.finish);
    if (options_.prompt_logprobs)
      json["prompt_logprobs"] = prompt_logprobs_json(choice.prompt_tokens, codec_);
    if (options_.token_ids) {
      json["prompt_token_ids"] =
          choice.prompt_ids.empty() ? OrderedJson(nullptr) : OrderedJson(choice.prompt_ids);
      json["token_ids"] = choice.token_ids;
    }
    return json;
  }

  OrderedJson logprobs_json(const ChoiceText& choice) const {
    OrderedJson tokens = OrderedJson::array();
    OrderedJson logprobs = OrderedJson::array();
    OrderedJson tops = OrderedJson::array();
    OrderedJson offsets = OrderedJson::array();
    int64_t offset = choice.text_offset;
    for (const TokenInfo& token : choice.tokens) {
      const std::string text = token_text(codec_, token.id);
      const std::string name = token_name(codec_, token.id, options_);
      tokens.push_back(name);
      offsets.push_back(offset);
      offset += count_characters(text);
      logprobs.push_back(token.has_logprob ? OrderedJson(token.logprob) : OrderedJson(nullptr));
      OrderedJson top = OrderedJson::object();
      for (const TokenLogprob& row : token.top)
        top[token_name(codec_, row.token_id, options_)] = row.logprob;
      // The drawn token is always there, so that clients can compare it with the likeliest.
      if (token.has_logprob) top[name] = token.logprob;
      tops.push_back(token.has_logprob ? top : OrderedJson(nullptr));
    }
    OrderedJson json;
    json["tokens"] = std::move(tokens);
    json["token_logprobs"] = std::move(logprobs);
    json["top_logprobs"] = options_.n_logprobs == 0 ? OrderedJson(nullptr) : std::move(tops);
    json["text_offset"] = std::move(offsets);
    return json;
  }

  const ReplyEnvelope envelope_;
  const ReplyOptions options_;
  const TextCodec& codec_;
};

}  // namespace

std::unique_ptr<ReplyFormat> make_completion_format(ReplyOptions options, const TextCodec& codec) {
  return std::make_unique<CompletionFormat>(std::move(options), codec);
}

}  // namespace trireme
