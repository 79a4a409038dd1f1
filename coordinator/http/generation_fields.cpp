#include "coordinator/http/generation_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "coordinator/http/cache_fields.h"
#include "coordinator/http/logit_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/search_fields.h"
#include "coordinator/serving/seed.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr float kGreedyBelow = 1e-5F;   // a temperature that small would overflow logits / T
constexpr size_t kMaxTokenBytes = 512;  // no tokenizer in use has a token of more

void read_stop_fields(JsonFields& fields, const ModelInfo& model, GenerationCall* call) {
  call->text.stop = fields.strings("stop", kMaxStopStrings);
  for (const std::string& stop : call->text.stop) {
    if (stop.size() > kMaxStopBytes) {
      fields.fail("stop", fmt::format("each stop string must have at most {} bytes, not {}",
                                      kMaxStopBytes, stop.size()));
    }
  }
  call->stop_token_ids = fields.token_ids("stop_token_ids", model.vocab_size, kMaxStopTokenIds);
  call->ignore_eos = fields.boolean("ignore_eos", false);
  call->text.skip_special_tokens = fields.boolean("skip_special_tokens", true);
  call->text.include_stop_string = fields.boolean("include_stop_str_in_output", false);
}

void read_stream_fields(JsonFields& fields, GenerationCall* call) {
  call->stream = fields.boolean("stream", false);
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!call->stream) {
    return fields.fail("stream_options", "stream_options may only be given with stream: true");
  }
  JsonFields stream_fields(*options, "stream_options.");
  call->include_usage = stream_fields.boolean("include_usage", false);
  call->continuous_usage = stream_fields.boolean("continuous_usage_stats", false);
  if (stream_fields.error()) fields.fail("stream_options", stream_fields.error()->message);
}

}  // namespace

ApiError bad_request(const Error& error) {
  return ApiError{.status = 400, .message = error.message, .param = error.param, .code = ""};
}

std::optional<ApiError> check_model(JsonFields& fields, const ModelInfo& model) {
  const std::string name = fields.string("model", "");
  if (fields.error()) return bad_request(*fields.error());
  if (name.empty() || name == model.id) return std::nullopt;
  return ApiError{.status = 404,
                  .message = fmt::format("the model {} does not exist here; this server has \"{}\"",
                                         shown(Json(name)), model.id),
                  .param = "model",
                  .code = "model_not_found"};
}

void read_generation_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                            GenerationCall* call, FormatField format) {
  constexpr auto kMaxInt = std::numeric_limits<int32_t>::max();
  if (!model.has_lm_head) {
    fields.fail("model",
                "this model has no lm_head and generates no text; use /v1/embeddings or /classify");
  }
  call->n = static_cast<int32_t>(fields.integer("n", 1, 1, kMaxChoices));
  auto& sampling = call->sampling;
  sampling.temperature = static_cast<float>(fields.number("temperature", 1.0, 0.0, 100.0));
  if (sampling.temperature < kGreedyBelow) sampling.temperature = 0.0F;
  sampling.top_p = static_cast<float>(fields.number("top_p", 1.0, 0.0, 1.0));
  if (sampling.top_p <= 0.0F) fields.fail("top_p", "top_p must be above 0 and at most 1");
  const int64_t top_k = fields.integer("top_k", 0, -1, kMaxInt);
  sampling.top_k = static_cast<int32_t>(top_k < 0 ? 0 : std::min<int64_t>(top_k, model.vocab_size));
  sampling.seed =
      fields.has("seed")
          ? static_cast<uint64_t>(fields.integer("seed", 0, std::numeric_limits<int64_t>::min(),
                                                 std::numeric_limits<int64_t>::max()))
          : draw_seed();
  read_stop_fields(fields, model, call);
  read_stream_fields(fields, call);
  read_cache_fields(fields, &call->cache_salt);
  read_logit_fields(fields, model, codec, call);
  read_reply_fields(fields, call);
  read_structure_fields(fields, call, format);
  read_search_fields(fields, model, call);
}

std::optional<ApiError> check_fits(size_t n_prompt_tokens, int64_t n_max_tokens,
                                   const ModelInfo& model, const char* prompt_field) {
  const auto n_prompt = static_cast<int64_t>(n_prompt_tokens);
  if (n_prompt == 0) {
    return ApiError{.status = 400,
                    .message = fmt::format("{} must have at least one token", prompt_field),
                    .param = prompt_field,
                    .code = ""};
  }
  if (n_prompt + n_max_tokens <= model.context_length) return std::nullopt;
  return ApiError{
      .status = 400,
      .message = fmt::format("this model's context length is {} tokens, and the request asks for "
                             "{} ({} in {}, {} to generate)",
                             model.context_length, n_prompt + n_max_tokens, n_prompt, prompt_field,
                             n_max_tokens),
      .param = prompt_field,
      .code = "context_length_exceeded"};
}

std::optional<ApiError> check_text_size(size_t n_bytes, const ModelInfo& model,
                                        const char* prompt_field) {
  const size_t n_tokens = n_bytes / kMaxTokenBytes;
  if (n_tokens <= static_cast<size_t>(model.context_length)) return std::nullopt;
  return ApiError{.status = 400,
                  .message = fmt::format("this model's context length is {} tokens, and {} has {} "
                                         "bytes, at least {} tokens",
                                         model.context_length, prompt_field, n_bytes, n_tokens),
                  .param = prompt_field,
                  .code = "context_length_exceeded"};
}

}  // namespace trireme
