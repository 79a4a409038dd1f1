#include "coordinator/text/tokenizer_config.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{64} << 20;

std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return std::nullopt;
  }
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > kMaxFileBytes) {
    throw EnvironmentError(fmt::format("{}: {} bytes, more than the {} such a file may have",
                                       path.string(), size, kMaxFileBytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (error || !file) {
    throw EnvironmentError(fmt::format(
        "{}: cannot be read; check that it is a file with read permission", path.string()));
  }
  return content;
}

Json read_json(const std::filesystem::path& path) {
  const std::optional<std::string> content = read_file(path);
  if (!content) {
    return Json::object();
  }
  Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    throw EnvironmentError(
        fmt::format("{}: not a JSON object; fetch the file again", path.string()));
  }
  return json;
}

void add_special_tokens(const Json& config, std::map<std::string, std::string>& tokens) {
  for (const auto& [name, value] : config.items()) {
    if (!name.ends_with("_token")) {
      continue;
    }
    if (value.is_string()) {
      tokens[name] = value.get<std::string>();
    } else if (value.is_object() && value.contains("content") && value["content"].is_string()) {
      tokens[name] = value["content"].get<std::string>();
    }
  }
}

// A template, or a list of {"name", "template"}.
void add_chat_templates(const Json& config, std::map<std::string, std::string>& templates) {
  const auto found = config.find("chat_template");
  if (found == config.end()) {
    return;
  }
  if (found->is_string()) {
    templates["default"] = found->get<std::string>();
    return;
  }
  if (!found->is_array()) {
    return;
  }
  for (const Json& entry : *found) {
    if (entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
        entry.contains("template") && entry["template"].is_string()) {
      templates[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
    }
  }
}

}  // namespace

TokenizerConfig TokenizerConfig::load(const std::filesystem::path& model_folder) {
  TokenizerConfig config;
  add_special_tokens(read_json(model_folder / "special_tokens_map.json"), config.special_tokens);
  const Json tokenizer_config = read_json(model_folder / "tokenizer_config.json");
  add_special_tokens(tokenizer_config, config.special_tokens);

  if (auto source = read_file(model_folder / "chat_template.jinja")) {
    config.chat_templates["default"] = std::move(*source);
    return config;
  }
  add_chat_templates(tokenizer_config, config.chat_templates);
  if (config.chat_templates.empty()) {
    add_chat_templates(read_json(model_folder / "chat_template.json"), config.chat_templates);
  }
  return config;
}

}  // namespace trireme
