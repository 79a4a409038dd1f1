#include "coordinator/http/logit_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMaxPenalty = 2.0;
constexpr double kLeastRepetitionPenalty = 0.01;
constexpr double kMostRepetitionPenalty = 100.0;
constexpr double kMaxBias = 100.0;

float read_float(JsonFields& fields, const char* name, double fallback, double min, double max) {
  return static_cast<float>(fields.number(name, fallback, min, max));
}

// A JSON key as a token id; -1: it is none. One way to write each ("07" is none), so that none
// comes twice.
int32_t token_id_of(const std::string& key, int32_t vocab_size) {
  int32_t id = -1;
  std::from_chars(key.data(), key.data() + key.size(), id);
  return id >= 0 && id < vocab_size && std::to_string(id) == key ? id : -1;
}

std::vector<TokenBias> read_biases(JsonFields& fields, const ModelInfo& model) {
  constexpr const char* kName = "logit_bias";
  const Json* object = fields.object(kName);
  if (object == nullptr) return {};
  if (object->size() > kMaxLogitBiases) {
    fields.fail(kName, fmt::format("logit_bias must have at most {} token ids, not {}",
                                   kMaxLogitBiases, object->size()));
    return {};
  }
  std::vector<TokenBias> biases;
  for (const auto& [key, value] : object->items()) {
    const int32_t id = token_id_of(key, model.vocab_size);
    if (id < 0) {
      fields.fail(kName, fmt::format("logit_bias has the key {}; keys must be token ids between 0 "
                                     "and {}",
                                     shown(Json(key)), model.vocab_size - 1));
      return {};
    }
    JsonFields bias(*object, "logit_bias.");
    const auto number = static_cast<float>(bias.number(key, 0.0, -kMaxBias, kMaxBias));
    if (bias.error()) {
      fields.fail(kName, bias.error()->message);
      return {};
    }
    biases.push_back({.token_id = id, .bias = number});
  }
  std::sort(biases.begin(), biases.end(),
            [](const TokenBias& a, const TokenBias& b) { return a.token_id < b.token_id; });
  return biases;
}

std::vector<int32_t> read_allowed(JsonFields& fields, const ModelInfo& model) {
  constexpr const char* kName = "allowed_token_ids";
  if (!fields.has(kName)) return {};
  std::vector<int32_t> ids = fields.token_ids(kName, model.vocab_size, kMaxAllowedTokenIds);
  if (ids.empty()) {
    fields.fail(kName, "allowed_token_ids must have at least one token id, or be left out");
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// A word at the beginning of a text and after a space, which may be quite other tokens.
std::vector<std::vector<int32_t>> read_bad_words(JsonFields& fields, const TextCodec& codec) {
  constexpr const char* kName = "bad_words";
  std::vector<std::vector<int32_t>> words;
  for (const std::string& word : fields.strings(kName, kMaxBadWords)) {
    if (word.size() > kMaxBadWordBytes) {
      fields.fail(kName, fmt::format("each of bad_words must have at most {} bytes, not {}",
                                     kMaxBadWordBytes, word.size()));
      return {};
    }
    const std::string bare = word.substr(std::min(word.find_first_not_of(' '), word.size()));
    auto at_start = codec.encode(bare, /*add_special_tokens=*/false);
    auto after_space = codec.encode(" " + bare, /*add_special_tokens=*/false);
    if (!at_start || !after_space || at_start->empty()) {
      fields.fail(kName, fmt::format("bad_words holds {}, which has no tokens", shown(Json(word))));
      return {};
    }
    const bool covered = after_space->size() >= at_start->size() &&
                         std::equal(at_start->rbegin(), at_start->rend(), after_space->rbegin());
    words.push_back(*std::move(at_start));
    if (!covered) words.push_back(*std::move(after_space));
  }
  return words;
}

}  // namespace

void read_logit_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                       GenerationCall* call) {
  call->sampling.min_p = read_float(fields, "min_p", 0.0, 0.0, 1.0);
  LogitRules rules;
  rules.presence_penalty = read_float(fields, "presence_penalty", 0.0, -kMaxPenalty, kMaxPenalty);
  rules.frequency_penalty = read_float(fields, "frequency_penalty", 0.0, -kMaxPenalty, kMaxPenalty);
  rules.repetition_penalty = read_float(fields, "repetition_penalty", 1.0, kLeastRepetitionPenalty,
                                        kMostRepetitionPenalty);
  rules.min_tokens = static_cast<int32_t>(fields.integer("min_tokens", 0, 0, model.context_length));
  rules.biases = read_biases(fields, model);
  rules.allowed_token_ids = read_allowed(fields, model);
  rules.bad_words = read_bad_words(fields, codec);
  if (fields.error() || rules.is_empty()) return;
  if (rules.min_tokens > 0) {
    rules.end_token_ids = model.eos_token_ids;
    rules.end_token_ids.insert(rules.end_token_ids.end(), call->stop_token_ids.begin(),
                               call->stop_token_ids.end());
  }
  call->text.min_tokens = rules.min_tokens;
  call->rules = std::make_shared<LogitRules>(std::move(rules));
}

std::optional<ApiError> check_min_tokens(const GenerationCall& call) {
  if (call.text.min_tokens <= call.max_new_tokens) return std::nullopt;
  return ApiError{.status = 400,
                  .message = fmt::format("min_tokens is {}, and at most {} tokens are generated "
                                         "(max_tokens)",
                                         call.text.min_tokens, call.max_new_tokens),
                  .param = "min_tokens",
                  .code = ""};
}

}  // namespace trireme
