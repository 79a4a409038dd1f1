#include "coordinator/http/conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/logit_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

size_t text_bytes(const Json& messages) {
  size_t n_bytes = 0;
  for (const Json& message : messages) {
    n_bytes += message["content"].get_ref<const std::string&>().size();
  }
  return n_bytes;
}

// Whether the model is to go on inside of its reasoning. A grammar holds from its first token on,
// so there is none with one.
void set_reasoning(const ModelInfo& model, const TextCodec& codec, GenerationCall* call) {
  constexpr std::string_view kThink = "<think>";
  constexpr size_t kTokens = 16;  // that hold the marker and some space
  if (!model.has_reasoning || !call->grammar.empty()) return;
  const std::vector<int32_t>& ids = call->prompts.front().ids;
  const std::vector<int32_t> last(ids.end() - static_cast<long>(std::min(ids.size(), kTokens)),
                                  ids.end());
  std::string text = codec.decode(last, /*skip_special_tokens=*/false);
  text.resize(text.find_last_not_of(" \n") + 1);
  call->message.reasoning = true;
  call->message.begins_in_reasoning = text.ends_with(kThink);
}

}  // namespace

std::optional<ApiError> encode_conversation(const Conversation& conversation,
                                            const ModelInfo& model, const TextCodec& codec,
                                            GenerationCall* call) {
  const auto& [field, messages, options, max_tokens, truncation] = conversation;
  if (auto error = check_text_size(text_bytes(messages), model, field)) return error;
  auto ids = codec.encode_chat(messages, options);
  if (!ids) return bad_request({ids.error().message, field});
  const int64_t least = std::max<int64_t>(max_tokens, 1);
  truncation.apply(least, model, &*ids);
  if (auto error = check_fits(ids->size(), least, model, field)) return error;
  call->max_new_tokens = max_tokens > 0 ? static_cast<int32_t>(max_tokens)
                                        : model.context_length - static_cast<int32_t>(ids->size());
  if (auto error = check_min_tokens(*call)) return error;
  call->prompts.push_back(Prompt{.ids = std::move(*ids), .text = ""});
  set_reasoning(model, codec, call);
  return std::nullopt;
}

}  // namespace trireme
