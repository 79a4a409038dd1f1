#include <cmath>
#include <nlohmann/json.hpp>

#include "coordinator/http/cache_fields.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/pooling_kind.h"
#include "coordinator/http/request_parsers.h"
#include "coordinator/http/tokenizer_codec.h"
#include "coordinator/text/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

constexpr int32_t kContextLength = 512;

struct Model {
  std::unique_ptr<TextCodec> codec;
  ModelInfo info;
};

Model load_model() {
  const char* folder = TRIREME_SOURCE_DIR "/tests/data/text/chatml";
  return {load_tokenizer_codec(folder),
          {.id = "m",
           .context_length = kContextLength,
           .vocab_size = Tokenizer::load(folder).vocab_size(),
           .tool_format = ToolFormat::kHermes,
           .has_reasoning = true,
           .hidden_size = 64}};
}

void check_refusal(const ApiError& error) {
  TRIREME_CHECK(error.status >= 400 && error.status <= 499);
  TRIREME_CHECK(!error.message.empty() && error.message.size() <= 4096);
  const auto body = nlohmann::json::parse(api_error_response(error).body);
  TRIREME_CHECK(body.at("error").at("message").is_string());
}

void check_rules(const LogitRules& rules, const ModelInfo& model) {
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < model.vocab_size; };
  TRIREME_CHECK(!rules.is_empty());
  TRIREME_CHECK(std::abs(rules.presence_penalty) <= 2.0F);
  TRIREME_CHECK(std::abs(rules.frequency_penalty) <= 2.0F);
  TRIREME_CHECK(rules.repetition_penalty > 0.0F && rules.repetition_penalty <= 100.0F);
  TRIREME_CHECK(rules.min_tokens >= 0 && rules.min_tokens <= kContextLength);
  for (const TokenBias& bias : rules.biases) {
    TRIREME_CHECK(in_vocabulary(bias.token_id) && std::abs(bias.bias) <= 100.0F);
  }
  for (const int32_t id : rules.allowed_token_ids) TRIREME_CHECK(in_vocabulary(id));
  for (const std::vector<int32_t>& word : rules.bad_words) TRIREME_CHECK(!word.empty());
}

// Every sequence of an accepted request fits the context, and every number is one that the ranks
// take.
void check_call(const GenerationCall& call, const ModelInfo& model) {
  TRIREME_CHECK(call.n >= 1 && call.n_choices() >= 1 && call.n_choices() <= kMaxChoices);
  TRIREME_CHECK(call.max_new_tokens >= 0);
  TRIREME_CHECK(call.n_logprobs >= kNoLogprobs && call.n_logprobs <= 20);
  for (const Prompt& prompt : call.prompts) {
    TRIREME_CHECK(!prompt.ids.empty());
    const int64_t n_tokens = static_cast<int64_t>(prompt.ids.size()) + call.max_new_tokens;
    TRIREME_CHECK(n_tokens <= model.context_length);
    for (const int32_t id : prompt.ids) TRIREME_CHECK(id >= 0 && id < model.vocab_size);
  }
  const SamplingParams& sampling = call.sampling;
  TRIREME_CHECK(std::isfinite(sampling.temperature) && sampling.temperature >= 0.0F);
  TRIREME_CHECK(sampling.top_p > 0.0F && sampling.top_p <= 1.0F);
  TRIREME_CHECK(sampling.top_k >= 0 && sampling.top_k <= model.vocab_size);
  TRIREME_CHECK(sampling.min_p >= 0.0F && sampling.min_p <= 1.0F);
  if (call.rules != nullptr) check_rules(*call.rules, model);
  for (const int32_t id : call.stop_token_ids) TRIREME_CHECK(id >= 0 && id < model.vocab_size);
  TRIREME_CHECK(call.text.stop.size() <= kMaxStopStrings);
  TRIREME_CHECK(call.cache_salt.size() <= kMaxCacheSaltBytes);
}

// A model that says the prompt once more: what goes out is UTF-8, and no stop string that may end
// it is in it.
void check_stream(const GenerationCall& call, const TextCodec& codec) {
  const Prompt& prompt = call.prompts.front();
  const auto stream = codec.open_stream(call.text, prompt.ids);
  std::string text;
  bool stopped = false;
  for (size_t i = 0; i < prompt.ids.size() && !stopped; ++i) {
    TextStream::Piece piece = stream->push(prompt.ids[i]);
    text += piece.text;
    stopped = piece.stopped;
  }
  text += stream->finish();
  (void)nlohmann::json(text).dump();  // throws where it is no UTF-8
  if (call.text.include_stop_string || call.text.min_tokens > 0) return;
  for (const std::string& stop : call.text.stop) {
    TRIREME_CHECK(text.find(stop) == std::string::npos);
  }
}

void check_parsed(const ParsedCall& parsed, const Model& model) {
  if (const auto* error = std::get_if<ApiError>(&parsed)) return check_refusal(*error);
  const auto& call = std::get<GenerationCall>(parsed);
  check_call(call, model.info);
  check_stream(call, *model.codec);
}

void check_pooling(const ParsedPooling& parsed, const ModelInfo& model) {
  if (const auto* error = std::get_if<ApiError>(&parsed)) return check_refusal(*error);
  const auto& call = std::get<PoolingCall>(parsed);
  TRIREME_CHECK(!call.inputs.empty() && call.n_queries < call.inputs.size());
  TRIREME_CHECK(call.dimensions >= 1 && call.dimensions <= model.hidden_size);
  TRIREME_CHECK(call.n_numbers() <= kMaxPoolingNumbers);
  TRIREME_CHECK(call.top_n <= call.inputs.size() - call.n_queries);
  for (const std::vector<int32_t>& ids : call.inputs) {
    TRIREME_CHECK(!ids.empty() && ids.size() <= static_cast<size_t>(model.context_length));
    for (const int32_t id : ids) TRIREME_CHECK(id >= 0 && id < model.vocab_size);
  }
  const Vectors vectors(call.inputs.size(), std::vector<float>(1, 0.5F));
  const auto body = nlohmann::json::parse(call.n_queries == 0 ? format_embeddings(call, {}, vectors)
                                          : call.top_n == 0   ? format_scores(call, {}, vectors)
                                                              : format_ranks(call, {}, vectors));
  TRIREME_CHECK(body.is_object());
}

}  // namespace
}  // namespace trireme

// The input is the body of a request, given to every endpoint that computes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static const Model model = load_model();
  const auto body = parse_json_body(fuzz::text_of(data, size));
  if (!body) {
    check_refusal(bad_request(body.error()));
    return 0;
  }
  check_parsed(parse_completion_request(*body, model.info, *model.codec), model);
  check_parsed(parse_chat_request(*body, model.info, *model.codec), model);
  check_parsed(parse_responses_request(*body, model.info, *model.codec), model);
  for (const PoolingKind& kind : kPoolingKinds)
    check_pooling(kind.parse(*body, model.info, *model.codec), model.info);
  return 0;
}
