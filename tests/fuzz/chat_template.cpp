#include "coordinator/text/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "coordinator/http/chat_messages.h"
#include "coordinator/http/json_body.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// A model's text side, and the ids that only its template may write.
class ChatModel {
 public:
  explicit ChatModel(const std::string& name)
      : tokenizer_(Tokenizer::load(TRIREME_SOURCE_DIR "/tests/data/text/" + name)),
        template_(*ChatTemplate::load(TRIREME_SOURCE_DIR "/tests/data/text/" + name, tokenizer_)) {
    for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
      const auto decoded = [&](bool skip) { return tokenizer_.decode({{id}}, skip); };
      if (decoded(true).empty() && !decoded(false).empty()) special_.insert(id);
    }
    TRIREME_CHECK(!special_.empty());
  }

  // Control tokens come from the template alone: as many where the text cannot spell one.
  void check(const Json& body) const {
    const auto n_special = count_special(body);
    const auto n_expected = count_special(without_brackets(body));
    TRIREME_CHECK(!n_special || !n_expected || *n_special == *n_expected);
  }

 private:
  std::optional<int64_t> count_special(const Json& body) const {
    const auto request = read_chat_prompt_options(body);
    const Result<Json> messages = normalize_messages(body.value("messages", Json()));
    if (!request || !messages) return std::nullopt;
    ChatOptions options;
    options.add_generation_prompt = request->add_generation_prompt;
    options.continue_final_message = request->continue_final_message;
    options.chat_template_kwargs = request->template_kwargs;
    const auto tools = body.find("tools");
    if (tools != body.end() && tools->is_array()) options.tools = &*tools;
    const Result<std::string> text = template_.render(*messages, options);
    const auto ids = template_.render_and_encode(*messages, options);
    TRIREME_CHECK(text.ok() == ids.ok());
    if (!ids) {
      fuzz::check_message(ids.error().message);
      return std::nullopt;
    }
    for (const int32_t id : *ids) TRIREME_CHECK(id >= 0 && id < tokenizer_.vocab_size());
    return std::count_if(ids->begin(), ids->end(),
                         [this](int32_t id) { return special_.contains(id); });
  }

  // Without what every control token of these models has.
  static Json without_brackets(const Json& value) {
    Json out = value;
    if (value.is_string()) {
      auto text = value.get<std::string>();
      std::replace_if(
          text.begin(), text.end(), [](char c) { return c == '<' || c == '['; }, '(');
      return text;
    }
    if (value.is_primitive()) return out;
    for (auto& item : out) item = without_brackets(item);
    return out;
  }

  Tokenizer tokenizer_;
  ChatTemplate template_;
  std::set<int32_t> special_;
};

}  // namespace
}  // namespace trireme

// The input is the body of a chat request, given to three models' templates.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static const ChatModel models[] = {ChatModel("chatml"), ChatModel("llama3"),
                                     ChatModel("mistral")};
  const auto body = parse_json_body(fuzz::text_of(data, size));
  if (!body) return 0;
  for (const ChatModel& model : models) model.check(*body);
  return 0;
}
