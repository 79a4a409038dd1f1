#include "coordinator/cli/message_style.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "kernels/result.h"

namespace trireme {
namespace {

constexpr std::array<std::pair<const char*, ToolFormat>, 4> kToolFormats = {
    {{"hermes", ToolFormat::kHermes},
     {"llama3_json", ToolFormat::kLlama3},
     {"mistral", ToolFormat::kMistral},
     {"none", ToolFormat::kNone}}};

[[noreturn]] void unknown(const char* option, const std::string& name, const char* allowed) {
  throw EnvironmentError(fmt::format("{} '{}' is not known: use {}", option, name, allowed));
}

}  // namespace

void set_message_style(const ClusterOptions& options, const TextCodec& codec, ModelInfo* model) {
  const std::string chat_template = codec.chat_template();
  const std::string& tools = options.tool_call_parser;
  model->tool_format = tool_format_of(chat_template);
  bool known = tools == "auto";
  for (const auto& [name, format] : kToolFormats) {
    if (tools != name) continue;
    model->tool_format = format;
    known = true;
  }
  if (!known) unknown("--tool-call-parser", tools, "auto, hermes, llama3_json, mistral or none");
  const std::string& reasoning = options.reasoning_parser;
  if (reasoning != "auto" && reasoning != "think" && reasoning != "none")
    unknown("--reasoning-parser", reasoning, "auto, think or none");
  model->has_reasoning =
      reasoning == "think" || (reasoning == "auto" && has_reasoning(chat_template));
}

}  // namespace trireme
