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
  return json;
}

std::string token_text(const TextCodec& codec, int32_t id) {
  return codec.decode({id}, /*skip_special_tokens=*/false);
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
