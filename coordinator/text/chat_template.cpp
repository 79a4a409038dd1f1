#include "coordinator/text/chat_template.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "coordinator/text/rust_answer.h"
#include "coordinator/text/tokenizer_config.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxNesting = 64;
constexpr size_t kMaxRequestBytes = size_t{16} << 20;

// Names that the rendering itself sets or that templates call.
constexpr std::array<const char*, 6> kReservedNames = {
    "messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"};

std::shared_ptr<TextTemplate> compile(const std::filesystem::path& model_folder,
                                      const Tokenizer& tokenizer, const std::string& source,
                                      const std::string& variables) {
  detail::RustAnswer answer;
  std::shared_ptr<TextTemplate> compiled(
      trireme_text_template_new(tokenizer.handle(), source.data(), source.size(), variables.data(),
                                variables.size(), answer.out()),
      trireme_text_template_free);
  if (!compiled) {
    throw EnvironmentError(
        fmt::format("{}: the model's chat template cannot be used ({}); mend chat_template in "
                    "tokenizer_config.json or chat_template.jinja",
                    model_folder.string(), answer.text()));
  }
  return compiled;
}

bool is_nested_too_deeply(const Json& value, int levels_left) {
  if (!value.is_structured()) {
    return false;
  }
  if (levels_left == 0) {
    return true;
  }
  for (const Json& child : value) {
    if (is_nested_too_deeply(child, levels_left - 1)) {
      return true;
    }
  }
  return false;
}

std::optional<Error> check_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return Error{"messages must be an array of at least one message", "messages"};
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      const std::string param = fmt::format("messages[{}]", i);
      return Error{param + " must be an object with a string \"role\"", param};
    }
  }
  return std::nullopt;
}

std::optional<Error> check_options(const ChatOptions& options) {
  if (options.add_generation_prompt && options.continue_final_message) {
    return Error{"continue_final_message and add_generation_prompt exclude each other",
                 "continue_final_message"};
  }
  if (options.tools != nullptr && !options.tools->is_array() && !options.tools->is_null()) {
    return Error{"tools must be an array", "tools"};
  }
  if (options.chat_template_kwargs == nullptr || options.chat_template_kwargs->is_null()) {
    return std::nullopt;
  }
  if (!options.chat_template_kwargs->is_object()) {
    return Error{"chat_template_kwargs must be an object", "chat_template_kwargs"};
  }
  for (const char* name : kReservedNames) {
    if (options.chat_template_kwargs->contains(name)) {
      return Error{fmt::format("chat_template_kwargs cannot set \"{}\"", name),
                   "chat_template_kwargs"};
    }
  }
  return std::nullopt;
}

bool has_tools(const ChatOptions& options) {
  return options.tools != nullptr && options.tools->is_array() && !options.tools->empty();
}

// The JSON of a part of the request, checked for what the Rust side relies on.
Result<std::string> checked_dump(const Json& value, const char* param) {
  if (is_nested_too_deeply(value, kMaxNesting)) {
    return Error{fmt::format("{} is nested more than {} levels deep", param, kMaxNesting), param};
  }
  std::string text;
  try {
    text = value.dump();
  } catch (const Json::exception&) {
    return Error{fmt::format("{} is not valid UTF-8", param), param};
  }
  if (text.size() > kMaxRequestBytes) {
    return Error{fmt::format("{} has {} bytes, more than the {} that are taken", param, text.size(),
                             kMaxRequestBytes),
                 param};
  }
  return text;
}

// The JSON of rust/src/conversation.rs, or what is wrong with the request.
Result<std::string> request_json(const Json& messages, const ChatOptions& options) {
  for (auto& error : {check_messages(messages), check_options(options)}) {
    if (error) {
      return *error;
    }
  }
  const Result<std::string> messages_json = checked_dump(messages, "messages");
  const Result<std::string> tools_json =
      checked_dump(has_tools(options) ? *options.tools : Json(), "tools");
  const bool has_kwargs =
      options.chat_template_kwargs != nullptr && options.chat_template_kwargs->is_object();
  const Result<std::string> kwargs_json = checked_dump(
      has_kwargs ? *options.chat_template_kwargs : Json::object(), "chat_template_kwargs");
  for (const Result<std::string>* part : {&messages_json, &tools_json, &kwargs_json}) {
    if (!part->ok()) {
      return part->error();
    }
  }
  return fmt::format(R"({{"messages":{},"tools":{},"arguments":{},)"
                     R"("add_generation_prompt":{},"continue_final_message":{}}})",
                     *messages_json, *tools_json, *kwargs_json, options.add_generation_prompt,
                     options.continue_final_message);
}

}  // namespace

std::optional<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_folder,
                                               const Tokenizer& tokenizer) {
  const TokenizerConfig config = TokenizerConfig::load(model_folder);
  if (config.chat_templates.empty()) {
    return std::nullopt;
  }
  const auto found = config.chat_templates.find("default");
  if (found == config.chat_templates.end()) {
    throw EnvironmentError(
        fmt::format("{}: none of the model's chat templates is named \"default\"; name one so in "
                    "tokenizer_config.json",
                    model_folder.string()));
  }
  std::string variables;
  try {
    variables = Json(config.special_tokens).dump();
  } catch (const Json::exception&) {
    throw EnvironmentError(
        fmt::format("{}: a special token of tokenizer_config.json is not valid UTF-8; fetch the "
                    "file again",
                    model_folder.string()));
  }
  ChatTemplate chat_template;
  chat_template.default_ = compile(model_folder, tokenizer, found->second, variables);
  const auto tool_use = config.chat_templates.find("tool_use");
  if (tool_use != config.chat_templates.end()) {
    chat_template.tool_use_ = compile(model_folder, tokenizer, tool_use->second, variables);
  }
  chat_template.tool_source_ =
      tool_use != config.chat_templates.end() ? tool_use->second : found->second;
  return chat_template;
}

const TextTemplate* ChatTemplate::choose(const ChatOptions& options) const {
  return tool_use_ && has_tools(options) ? tool_use_.get() : default_.get();
}

Result<std::string> ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  const Result<std::string> request = request_json(messages, options);
  if (!request) {
    return request.error();
  }
  detail::RustAnswer answer;
  const int status =
      trireme_text_template_render(choose(options), request->data(), request->size(), answer.out());
  if (status != 0) {
    return Error{answer.text(), "messages"};
  }
  return answer.text();
}

Result<std::vector<int32_t>> ChatTemplate::render_and_encode(const Json& messages,
                                                             const ChatOptions& options) const {
  const Result<std::string> request = request_json(messages, options);
  if (!request) {
    return request.error();
  }
  detail::RustAnswer answer;
  const int status =
      trireme_text_template_encode(choose(options), request->data(), request->size(), answer.out());
  if (status != 0) {
    return Error{answer.text(), "messages"};
  }
  return answer.ids();
}

}  // namespace trireme
