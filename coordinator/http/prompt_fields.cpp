#include "coordinator/http/prompt_fields.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"

namespace trireme {

using Json = nlohmann::ordered_json;

std::variant<std::vector<const Json*>, ApiError> list_prompts(const Json& value, const char* field,
                                                              size_t max_count) {
  std::vector<const Json*> prompts;
  const auto wrong = [&] {
    return bad_request({fmt::format("{} must be a string, a list of strings, a list of token ids "
                                    "or a list of such lists, not {}",
                                    field, shown(value)),
                        field});
  };
  if (value.is_string()) return std::vector<const Json*>{&value};
  if (!value.is_array() || value.empty()) return wrong();
  if (value.front().is_number()) return std::vector<const Json*>{&value};
  if (value.size() > max_count) {
    return bad_request(
        {fmt::format("{} must have at most {} prompts, not {}", field, max_count, value.size()),
         field});
  }
  for (const Json& item : value) {
    if (item.type() != value.front().type() || (!item.is_string() && !item.is_array())) {
      return wrong();
    }
    prompts.push_back(&item);
  }
  return prompts;
}

std::variant<EncodedPrompt, ApiError> encode_prompt(const Json& prompt, const PromptForm& form,
                                                    const ModelInfo& model,
                                                    const TextCodec& codec) {
  EncodedPrompt encoded;
  if (prompt.is_string()) {
    const auto& text = prompt.get_ref<const std::string&>();
    if (auto error = check_text_size(text.size(), model, form.field)) return *error;
    auto ids = codec.encode(text, form.add_special_tokens);
    if (!ids) return bad_request({ids.error().message, form.field});
    encoded.ids = std::move(*ids);
  } else {
    if (!form.truncation.wanted()) {
      auto error = check_fits(prompt.size(), form.n_max_tokens, model, form.field);
      if (error) return *error;
    }
    auto ids = parse_token_ids(prompt, form.field, model.vocab_size, prompt.size());
    if (!ids) return bad_request(ids.error());
    encoded.ids = std::move(*ids);
  }
  encoded.cut = form.truncation.apply(form.n_max_tokens, model, &encoded.ids);
  if (auto error = check_fits(encoded.ids.size(), form.n_max_tokens, model, form.field)) {
    return *error;
  }
  return encoded;
}

}  // namespace trireme
