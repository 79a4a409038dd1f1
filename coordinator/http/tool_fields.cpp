#include "coordinator/http/tool_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/http/structure_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using Tools = std::vector<const Json*>;

enum class Choice : uint8_t { kNone, kAuto, kRequired, kNamed };

bool is_name(const Json& value) {
  if (!value.is_string()) return false;
  const auto& name = value.get_ref<const std::string&>();
  return !name.empty() && name.size() <= kMaxToolNameBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
         });
}

const std::string& name_of(const Json& tool) {
  return tool["function"]["name"].get_ref<const std::string&>();
}

// What is wrong with tools[i], or "".
std::string tool_problem(const Json& tool) {
  if (!tool.is_object() || tool.value("type", Json("function")) != "function")
    return "must be an object with type \"function\"";
  const auto function = tool.find("function");
  if (function == tool.end() || !function->is_object()) return "must have an object \"function\"";
  if (!is_name(function->value("name", Json()))) {
    return fmt::format(
        "must have a function.name of 1 to {} letters, digits, underscores, dashes and dots",
        kMaxToolNameBytes);
  }
  const auto parameters = function->find("parameters");
  if (parameters != function->end() && !parameters->is_null() && !parameters->is_object())
    return "must have a JSON schema as function.parameters, or none";
  return "";
}

// Empty when there are none, or with an error.
Tools read_tools(JsonFields& fields) {
  Tools tools;
  const Json* list = fields.value("tools");
  if (list == nullptr) return tools;
  if (!list->is_array() || list->size() > kMaxTools) {
    fields.fail("tools", fmt::format("tools must be a list of at most {} tools, not {}", kMaxTools,
                                     shown(*list)));
    return tools;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& tool = (*list)[i];
    std::string problem = tool_problem(tool);
    for (size_t k = 0; problem.empty() && k < i; ++k) {
      if (name_of(*tools[k]) == name_of(tool)) problem = "has the name of another tool";
    }
    if (!problem.empty()) {
      fields.fail("tools", fmt::format("tools[{}] {}", i, problem));
      return {};
    }
    tools.push_back(&tool);
  }
  return tools;
}

// Named: leaves the one tool in `tools`.
Choice read_choice(JsonFields& fields, Tools* tools) {
  const Json* choice = fields.value("tool_choice");
  if (choice == nullptr || *choice == "auto") return tools->empty() ? Choice::kNone : Choice::kAuto;
  if (*choice == "none") return Choice::kNone;
  if (*choice == "required") {
    if (tools->empty())
      fields.fail("tool_choice", "tool_choice is required and there are no tools");
    return Choice::kRequired;
  }
  const Json function = choice->is_object() ? choice->value("function", Json()) : Json();
  const Json name = function.is_object() ? function.value("name", Json()) : Json();
  if (!name.is_string()) {
    fields.fail("tool_choice",
                fmt::format("tool_choice must be none, auto, required or {{\"type\": \"function\", "
                            "\"function\": {{\"name\": string}}}}, not {}",
                            shown(*choice)));
    return Choice::kNone;
  }
  std::erase_if(*tools, [&](const Json* tool) { return name_of(*tool) != name; });
  if (tools->empty())
    fields.fail("tool_choice", fmt::format("tool_choice names no tool: {}", shown(name)));
  return Choice::kNamed;
}

// A marker as the model writes it: one token where it has one, which no text could give.
std::string marker(std::string_view text, const TextCodec& codec) {
  if (const auto id = codec.token_id(text)) return fmt::format("<[{}]>", *id);
  return Json(text).dump();
}

// Whether text without special tokens lacks the marker.
bool is_hidden(std::string_view text, const TextCodec& codec) {
  const auto id = codec.token_id(text);
  return id && codec.decode({*id}, /*skip_special_tokens=*/true).empty();
}

// What stands around the calls.
struct Form {
  std::string begin;  // of all of them, and of each
  std::string call_begin;
  const char* arguments_key;
  std::string call_end;
  std::string separator;  // "" for none
  std::string end;
};

Form form_of(ToolFormat format, const TextCodec& codec) {
  switch (format) {
    case ToolFormat::kHermes:
      return {.begin = "",
              .call_begin = marker("<tool_call>", codec) + R"( "\n")",
              .arguments_key = "arguments",
              .call_end = R"("\n" )" + marker("</tool_call>", codec),
              .separator = R"("\n")",
              .end = ""};
    case ToolFormat::kMistral:
      return {.begin = marker("[TOOL_CALLS]", codec) + " \"[\"",
              .call_begin = "",
              .arguments_key = "arguments",
              .call_end = "",
              .separator = R"(", ")",
              .end = "\"]\""};
    default:
      return {.begin = "",
              .call_begin = "",
              .arguments_key = "parameters",
              .call_end = "",
              .separator = R"("; ")",
              .end = ""};
  }
}

}  // namespace

// The arguments are grammars of their own, so that references in a schema find what they mean.
std::string tool_grammar(const Tools& tools, ToolFormat format, const TextCodec& codec,
                         int max_calls) {
  const Form form = form_of(format, codec);
  std::string calls;
  std::string rules;
  for (size_t i = 0; i < tools.size(); ++i) {
    const Json& function = (*tools[i])["function"];
    const Json given = function.value("parameters", Json());
    const std::string head =
        fmt::format(R"({{"name": {}, "{}": )", function["name"].dump(), form.arguments_key);
    calls += fmt::format("{}call_{}", i == 0 ? "" : " | ", i);
    rules += fmt::format("call_{0}: {1} {2} arguments_{0} \"}}\" {3}\n", i, form.call_begin,
                         Json(head).dump(), form.call_end);
    rules += fmt::format(
        "arguments_{}: %json {}\n", i,
        schema_text(given.is_null() ? Json{{"type", "object"}} : given, /*one_line=*/true));
  }
  const std::string more =
      max_calls > 1 ? fmt::format(" ({} call){{0,{}}}", form.separator, max_calls - 1) : "";
  return fmt::format("start: {} call{} {}\ncall: {}\n{}", form.begin, more, form.end, calls, rules);
}

const Json* read_tool_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                             GenerationCall* call) {
  Tools tools = read_tools(fields);
  const Choice choice = read_choice(fields, &tools);
  const bool parallel = fields.boolean("parallel_tool_calls", true);
  if (fields.error() || choice == Choice::kNone) return nullptr;
  if (model.tool_format == ToolFormat::kNone) {
    fields.fail("tools",
                "how this model calls tools is not known; leave tools out, or start the server "
                "with --tool-call-parser hermes, llama3_json or mistral");
    return nullptr;
  }
  call->message.tools = model.tool_format;
  if (is_hidden(opening_of(model.tool_format), codec)) call->text.skip_special_tokens = false;
  if (choice == Choice::kAuto) return fields.value("tools");
  if (!call->grammar.empty()) {
    fields.fail("tool_choice", fmt::format("tool_choice forces a call, and {} forces a text; only "
                                           "one of them can be had",
                                           call->grammar_field));
    return nullptr;
  }
  const int max_calls = choice == Choice::kNamed || !parallel ? 1 : kMaxForcedCalls;
  call->grammar = {.tag = "lark", .text = tool_grammar(tools, model.tool_format, codec, max_calls)};
  call->grammar_field = "tools";
  return fields.value("tools");
}

}  // namespace trireme
