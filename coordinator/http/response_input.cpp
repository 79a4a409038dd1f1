#include "coordinator/http/response_input.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "coordinator/http/chat_messages.h"
#include "coordinator/http/json_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// The messages of a conversation, from its items.
class Messages {
 public:
  // An error, or nothing. `name`: the item's.
  std::optional<Error> add(const Json& item, const std::string& name);
  Json& say(const std::string& role, std::string content);
  Json take() { return std::move(messages_); }

 private:
  std::optional<Error> add_message(JsonFields& item, const std::string& name);
  std::optional<Error> add_call(JsonFields& item, const std::string& name);
  std::optional<Error> add_output(JsonFields& item, const std::string& name);
  std::optional<Error> add_reasoning(JsonFields& item, const std::string& name);

  Json messages_ = Json::array();
  std::string reasoning_;  // of the message that comes next
};

Error input_error(std::string message) { return {std::move(message), "input"}; }

Json& Messages::say(const std::string& role, std::string content) {
  messages_.push_back({{"role", role}, {"content", std::move(content)}});
  const std::string reasoning = std::exchange(reasoning_, {});
  if (role == "assistant" && !reasoning.empty()) messages_.back()["reasoning_content"] = reasoning;
  return messages_.back();
}

// A string or a list of parts.
Result<std::string> read_text(JsonFields& item, const std::string& name, const char* field) {
  const Json* content = item.value(field);
  const std::string full_name = fmt::format("{}.{}", name, field);
  if (content == nullptr) return input_error(full_name + " is missing");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    return input_error(fmt::format("{} must be a string or a list of text parts, not {}", full_name,
                                   shown(*content)));
  }
  Result<std::string> text = join_text_parts(*content, full_name, {"input_text", "output_text"});
  if (!text) return input_error(text.error().message);
  return text;
}

std::optional<Error> Messages::add(const Json& item, const std::string& name) {
  if (!item.is_object())
    return input_error(fmt::format("{} must be an object, not {}", name, shown(item)));
  JsonFields fields(item, name + ".");
  const std::string type = fields.string("type", "message");
  if (fields.error()) return input_error(fields.error()->message);
  if (type == "message") return add_message(fields, name);
  if (type == "function_call") return add_call(fields, name);
  if (type == "function_call_output") return add_output(fields, name);
  if (type == "reasoning") return add_reasoning(fields, name);
  return input_error(
      fmt::format("{}.type must be message, function_call, function_call_output or "
                  "reasoning, not {}",
                  name, shown(Json(type))));
}

std::optional<Error> Messages::add_message(JsonFields& item, const std::string& name) {
  const std::string role = item.string("role", "");
  if (item.error()) return input_error(item.error()->message);
  if (role.empty()) return input_error(name + ".role must be a non-empty string");
  Result<std::string> text = read_text(item, name, "content");
  if (!text) return text.error();
  say(role, *std::move(text));
  return std::nullopt;
}

// Several calls in a row are one message, with what was said before them.
std::optional<Error> Messages::add_call(JsonFields& item, const std::string& name) {
  const std::string function = item.string("name", "");
  const std::string call_id = item.string("call_id", "");
  if (item.error()) return input_error(item.error()->message);
  if (function.empty()) return input_error(name + ".name is missing");
  if (call_id.empty()) return input_error(name + ".call_id is missing");
  const Json* given = item.value("arguments");
  Result<Json> arguments = call_arguments(given == nullptr ? Json("") : *given);
  if (!arguments) return input_error(name + "." + arguments.error().message);
  const bool follows =
      !messages_.empty() && messages_.back()["role"] == "assistant" && reasoning_.empty();
  Json& message = follows ? messages_.back() : say("assistant", "");
  Json call = {{"id", call_id}, {"type", "function"}};
  call["function"] = {{"name", function}, {"arguments", *std::move(arguments)}};
  message["tool_calls"].push_back(std::move(call));
  return std::nullopt;
}

std::optional<Error> Messages::add_output(JsonFields& item, const std::string& name) {
  const std::string call_id = item.string("call_id", "");
  if (item.error()) return input_error(item.error()->message);
  if (call_id.empty()) return input_error(name + ".call_id is missing");
  Result<std::string> text = read_text(item, name, "output");
  if (!text) return text.error();
  say("tool", *std::move(text))["tool_call_id"] = call_id;
  return std::nullopt;
}

// As answers have it; what others encrypted cannot be read, and is left out.
std::optional<Error> Messages::add_reasoning(JsonFields& item, const std::string& name) {
  const Json* content = item.value("content");
  if (content == nullptr) return std::nullopt;
  if (!content->is_array()) {
    return input_error(
        fmt::format("{}.content must be a list of reasoning texts, not {}", name, shown(*content)));
  }
  Result<std::string> text = join_text_parts(*content, name + ".content", {"reasoning_text"});
  if (!text) return input_error(text.error().message);
  reasoning_ += *text;
  return std::nullopt;
}

Result<Json> nest_tool(const Json& tool, const std::string& name) {
  const auto wrong = [&name](const std::string& why) { return Error{name + why, "tools"}; };
  if (!tool.is_object()) return wrong(" must be an object, not " + shown(tool));
  const Json type = tool.value("type", Json());
  if (type != "function")
    return wrong(".type must be \"function\", not " + shown(type) + ": this server has no tools");
  if (!tool.value("name", Json()).is_string()) return wrong(".name is missing");
  Json function = tool;
  function.erase("type");
  return Json{{"type", "function"}, {"function", std::move(function)}};
}

Result<Json> nest_choice(const Json& choice) {
  if (choice == "none" || choice == "auto" || choice == "required") return choice;
  if (choice.is_object() && choice.value("type", Json()) == "function" &&
      choice.value("name", Json()).is_string()) {
    return Json{{"type", "function"}, {"function", {{"name", choice["name"]}}}};
  }
  return Error{fmt::format("tool_choice must be none, auto, required or {{\"type\": \"function\", "
                           "\"name\": string}}, not {}",
                           shown(choice)),
               "tool_choice"};
}

}  // namespace

Result<Json> read_response_input(const Json& body) {
  JsonFields fields(body);
  Messages messages;
  const std::string instructions = fields.string("instructions", "");
  if (fields.error()) return *fields.error();
  if (!instructions.empty()) messages.say("system", instructions);
  const Json* input = fields.value("input");
  if (input == nullptr) return input_error("input is missing");
  if (!input->is_string() && (!input->is_array() || input->empty())) {
    return input_error(fmt::format("input must be a string or a list of at least one item, not {}",
                                   shown(*input)));
  }
  if (input->is_string()) {
    messages.say("user", input->get<std::string>());
    return messages.take();
  }
  if (input->size() > kMaxMessages) {
    return input_error(
        fmt::format("input must have at most {} items, not {}", kMaxMessages, input->size()));
  }
  for (size_t i = 0; i < input->size(); ++i) {
    if (auto error = messages.add((*input)[i], fmt::format("input[{}]", i))) return *error;
  }
  return messages.take();
}

Result<Json> read_response_tools(const Json& body) {
  const JsonFields fields(body);
  Json chat = Json::object();
  if (const Json* parallel = fields.value("parallel_tool_calls"))
    chat["parallel_tool_calls"] = *parallel;
  if (const Json* choice = fields.value("tool_choice")) {
    Result<Json> nested = nest_choice(*choice);
    if (!nested) return nested.error();
    chat["tool_choice"] = *std::move(nested);
  }
  const Json* tools = fields.value("tools");
  if (tools == nullptr) return chat;
  if (!tools->is_array())
    return Error{fmt::format("tools must be a list, not {}", shown(*tools)), "tools"};
  chat["tools"] = Json::array();
  for (size_t i = 0; i < tools->size(); ++i) {
    Result<Json> nested = nest_tool((*tools)[i], fmt::format("tools[{}]", i));
    if (!nested) return nested.error();
    chat["tools"].push_back(*std::move(nested));
  }
  return chat;
}

}  // namespace trireme
