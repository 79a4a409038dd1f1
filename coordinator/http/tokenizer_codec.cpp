#include "coordinator/http/tokenizer_codec.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/stop_checker.h"
#include "coordinator/text/text_guides.h"
#include "coordinator/text/tokenizer.h"

namespace trireme {
namespace {

class TokenizerStream final : public TextStream {
 public:
  TokenizerStream(const Tokenizer& tokenizer, const TextStreamOptions& options,
                  const std::vector<int32_t>& prompt_ids)
      : detokenizer_(tokenizer, options.skip_special_tokens, prompt_ids),
        stop_checker_(options.stop),
        include_stop_string_(options.include_stop_string) {}

  Piece push(int32_t token_id) override { return check(detokenizer_.push(token_id)); }

  std::string finish() override {
    if (stopped_) return "";
    Piece piece = check(detokenizer_.finish());
    if (!piece.stopped) piece.text += stop_checker_.flush();
    return piece.text;
  }

 private:
  Piece check(const std::string& text) {
    StopChecker::Output output = stop_checker_.feed(text);
    Piece piece{.text = std::move(output.text), .stopped = output.stop.has_value()};
    if (piece.stopped && include_stop_string_) piece.text += *output.stop;
    stopped_ = piece.stopped;
    return piece;
  }

  Detokenizer detokenizer_;
  StopChecker stop_checker_;
  const bool include_stop_string_;
  bool stopped_ = false;
};

class TokenizerCodec final : public TextCodec {
 public:
  explicit TokenizerCodec(const std::filesystem::path& model_folder)
      : tokenizer_(Tokenizer::load(model_folder)),
        chat_template_(ChatTemplate::load(model_folder, tokenizer_)) {}

  Result<std::vector<int32_t>> encode(std::string_view text,
                                      bool add_special_tokens) const override {
    return tokenizer_.encode(text, add_special_tokens);
  }

  Result<std::vector<int32_t>> encode_chat(const nlohmann::ordered_json& messages,
                                           const ChatPromptOptions& options) const override {
    if (!chat_template_) {
      return Error{"this model has no chat template; use /v1/completions", "messages"};
    }
    ChatOptions chat;
    chat.add_generation_prompt = options.add_generation_prompt;
    chat.continue_final_message = options.continue_final_message;
    chat.chat_template_kwargs = options.template_kwargs;
    chat.tools = options.tools;
    return chat_template_->render_and_encode(messages, chat);
  }

  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override {
    return tokenizer_.decode(ids, skip_special_tokens);
  }

  std::unique_ptr<TextStream> open_stream(const TextStreamOptions& options,
                                          const std::vector<int32_t>& prompt_ids) const override {
    return std::make_unique<TokenizerStream>(tokenizer_, options, prompt_ids);
  }

  std::optional<int32_t> token_id(std::string_view text) const override {
    return tokenizer_.token_id(text);
  }

  std::string chat_template() const override {
    return chat_template_ ? chat_template_->tool_source() : "";
  }

  std::shared_ptr<const GuideMaker> make_guides(
      int32_t vocab_size, const std::vector<int32_t>& end_tokens) const override {
    return make_text_guides(tokenizer_, vocab_size, end_tokens);
  }

 private:
  const Tokenizer tokenizer_;
  const std::optional<ChatTemplate> chat_template_;
};

}  // namespace

std::unique_ptr<TextCodec> load_tokenizer_codec(const std::filesystem::path& model_folder) {
  return std::make_unique<TokenizerCodec>(model_folder);
}

}  // namespace trireme
