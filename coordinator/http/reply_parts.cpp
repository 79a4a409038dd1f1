#include "coordinator/http/reply_parts.h"

#include <fmt/format.h>

#include <random>

namespace trireme {

std::string draw_answer_id(const std::string& prefix) {
  std::random_device device;
  return fmt::format("{}{:08x}{:08x}{:08x}", prefix, device(), device(), device());
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
  json["prompt_tokens_details"] = {{"cached_tokens", usage.n_cached_tokens}};
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
