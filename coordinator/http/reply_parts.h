#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "coordinator/http/reply_format.h"

// Private to coordinator/http: includes the JSON library.

namespace trireme {

using OrderedJson = nlohmann::ordered_json;  // keys in the order they are set, as readers expect

std::string dump_json(const OrderedJson& json);
HttpResponse json_response(const OrderedJson& json);
OrderedJson finish_reason_json(FinishReason reason);
OrderedJson usage_json(const Usage& usage);

// A token's own text, special or not.
std::string token_text(const TextCodec& codec, int32_t id);
// How logprobs name a token.
std::string token_name(const TextCodec& codec, int32_t id, const ReplyOptions& options);

// [n_prompt]: null, then for each token of the prompt an object of its logprob and of the most
// likely ones there, by id.
OrderedJson prompt_logprobs_json(const std::vector<TokenInfo>& tokens, const TextCodec& codec);

// {"id", "object", "created", "model"}: how every object of an answer begins.
struct ReplyEnvelope {
  std::string id;
  int64_t created = 0;
  std::string model;

  OrderedJson begin(const char* object) const;
};

}  // namespace trireme
