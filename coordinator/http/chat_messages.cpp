#include "coordinator/http/chat_messages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/http/json_body.h"
#include "coordinator/http/json_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

Result<Json> normalize_calls(const Json& calls, const std::string& name) {
  if (!calls.is_array()) {
    return Error{fmt::format("{} must be a list, not {}", name, shown(calls)), "messages"};
  }
  Json normal = calls;
  for (size_t i = 0; i < normal.size(); ++i) {
    const std::string call_name = fmt::format("{}[{}]", name, i);
    const auto wrong = [&call_name](const std::string& why) {
      return Error{
          fmt::format("{} must be a call of a function as answers have them: {}", call_name, why),
          "messages"};
    };
    Json& call = normal[i];
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object())
      return wrong("it has no object \"function\"");
    if (!function->contains("name") || !(*function)["name"].is_string())
      return wrong("function.name is missing");
    Result<Json> arguments = call_arguments(function->value("arguments", Json("")));
    if (!arguments) return wrong("function." + arguments.error().message);
    (*function)["arguments"] = *std::move(arguments);
  }
  return normal;
}

Result<Json> normalize_message(const Json& message, size_t index) {
  const std::string name = fmt::format("messages[{}]", index);
  if (!message.is_object()) {
    return Error{fmt::format("{} must be an object, not {}", name, shown(message)), "messages"};
  }
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string() || role->get_ref<const std::string&>().empty()) {
    return Error{fmt::format("{}.role must be a non-empty string", name), "messages"};
  }
  for (const char* field : {"function_call", "audio"}) {
    const auto found = message.find(field);
    if (found != message.end() && !found->is_null() && !found->empty()) {
      return Error{fmt::format("{}.{} is not supported in this version", name, field), "messages"};
    }
  }
  Json normal = message;
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (*role != "assistant") {
      return Error{fmt::format("{}.content is missing", name), "messages"};
    }
    normal["content"] = "";
  } else if (content->is_array()) {
    Result<std::string> text = join_text_parts(*content, name + ".content", {"text"});
    if (!text) return Error{text.error().message, "messages"};
    normal["content"] = std::move(*text);
  } else if (!content->is_string()) {
    return Error{fmt::format("{}.content must be a string or a list of text parts, not {}", name,
                             shown(*content)),
                 "messages"};
  }
  const auto calls = message.find("tool_calls");
  if (calls == message.end()) return normal;
  if (calls->is_null() || calls->empty()) {
    normal.erase("tool_calls");
    return normal;
  }
  Result<Json> normal_calls = normalize_calls(*calls, name + ".tool_calls");
  if (!normal_calls) return normal_calls.error();
  normal["tool_calls"] = *std::move(normal_calls);
  return normal;
}

}  // namespace

Result<std::string> join_text_parts(const Json& parts, const std::string& name,
                                    const std::vector<std::string_view>& types) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const auto member = [&part](const char* key) {
      const auto found = part.is_object() ? part.find(key) : part.end();
      return found == part.end() ? nullptr : found->get_ptr<const std::string*>();
    };
    const std::string* type = member("type");
    const std::string* said = member("text");
    if (type == nullptr || said == nullptr ||
        std::find(types.begin(), types.end(), *type) == types.end()) {
      return Error{fmt::format("{}[{}] must be {{\"type\": \"{}\", \"text\": string}}: this "
                               "server takes text only",
                               name, i, fmt::join(types, "\" or \"")),
                   ""};
    }
    if (i > 0) text += '\n';
    text += *said;
  }
  return text;
}

Result<Json> call_arguments(const Json& arguments) {
  if (arguments.is_object()) return arguments;
  if (arguments == "") return Json::object();
  if (!arguments.is_string()) return Error{"arguments is no text", ""};
  Result<Json> object = parse_json_body(arguments.get_ref<const std::string&>());
  if (!object) return Error{"arguments is not the text of a JSON object", ""};
  return object;
}

Result<Json> normalize_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return Error{
        fmt::format("messages must be a list of at least one message, not {}", shown(messages)),
        "messages"};
  }
  if (messages.size() > kMaxMessages) {
    return Error{fmt::format("messages must have at most {} messages, not {}", kMaxMessages,
                             messages.size()),
                 "messages"};
  }
  Json normal = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    Result<Json> message = normalize_message(messages[i], i);
    if (!message) return message.error();
    normal.push_back(std::move(*message));
  }
  return normal;
}

Result<ChatPromptOptions> read_chat_prompt_options(const Json& body) {
  JsonFields fields(body);
  ChatPromptOptions options;
  options.continue_final_message = fields.boolean("continue_final_message", false);
  options.add_generation_prompt =
      fields.boolean("add_generation_prompt", !options.continue_final_message);
  options.template_kwargs = fields.object("chat_template_kwargs");
  if (options.continue_final_message && options.add_generation_prompt) {
    fields.fail("continue_final_message",
                "continue_final_message and add_generation_prompt cannot both be true");
  }
  if (fields.error()) return *fields.error();
  return options;
}

}  // namespace trireme
