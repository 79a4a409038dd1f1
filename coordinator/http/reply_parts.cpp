#include "coordinator/http/reply_parts.h"

#include <fmt/format.h>

#include <random>

namespace trireme {

std::string draw_answer_id(const std::string& prefix) {
  std::random_device device;
  return fmt::format("{}{:08x}{:08x}{:08x}", prefix, device(), device(), device());
}

std::string tool_call_id(const std::string& answer_id, int choice, int call) {
  constexpr std::string_view kDigits =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  constexpr int kLength = 9;
  uint64_t hash = 0xCBF29CE484222325U;  // FNV-1a, which begins with this
  for (const char c : fmt::format("{}/{}/{}", answer_id, choice, call))
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  std::string id;
  for (int i = 0; i < kLength; ++i, hash /= kDigits.size()) id += kDigits[hash % kDigits.size()];
  return id;
}

int64_t count_characters(std::string_view text) {
  int64_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
  return n;
}

std::string dump_json(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

HttpResponse json_response(const OrderedJson& json) {
  HttpResponse response;
  response.body = dump_json(json);
  return response;
}

OrderedJson finish_reason_json(FinishReason reason) {
  if (reason == FinishReason::kStop) return "stop";
  if (reason == FinishReason::kLength) return "length";
  return nullptr;
}

OrderedJson usage_json(const Usage& usage) {
  OrderedJson json;
  json["prompt_tokens"] = usage.n_prompt_tokens;
  json["completion_tokens"] = usage.n_output_tokens;
  json["total_tokens"] = usage.n_prompt_tokens + usage.n_output_tokens;
  json["prompt_tokens_details"] = {{"cached_tokens", usage.n_cached_tokens}};
  if (usage.n_guessed > 0) {
    json["completion_tokens_details"] = {
        {"accepted_prediction_tokens", usage.n_guessed_right},
        {"rejected_prediction_tokens", usage.n_guessed - usage.n_guessed_right}};
  }
  return json;
}

std::string token_text(const TextCodec& codec, int32_t id) {
  return codec.decode({id}, /*skip_special_tokens=*/false);
}

std::string token_name(const TextCodec& codec, int32_t id, const ReplyOptions& options) {
  return options.tokens_as_ids ? fmt::format("token_id:{}", id) : token_text(codec, id);
}

OrderedJson prompt_logprobs_json(const std::vector<TokenInfo>& tokens, const TextCodec& codec) {
  OrderedJson rows = OrderedJson::array();
  for (const TokenInfo& token : tokens) {
    OrderedJson row;
    const auto put = [&](int32_t id, float logprob, const OrderedJson& rank) {
      OrderedJson& entry = row[std::to_string(id)];
      entry["logprob"] = logprob;
      entry["rank"] = rank;
      entry["decoded_token"] = token_text(codec, id);
    };
    if (token.has_logprob) put(token.id, token.logprob, nullptr);
    for (size_t i = 0; i < token.top.size(); ++i)
      put(token.top[i].token_id, token.top[i].logprob, i + 1);
    rows.push_back(std::move(row));
  }
  return rows;
}

OrderedJson ReplyEnvelope::begin(const char* object) const {
  OrderedJson json;
  json["id"] = id;
  json["object"] = object;
  json["created"] = created;
  json["model"] = model;
  return json;
}

}  // namespace trireme
