#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace trireme {

// What the text layer takes from a model folder besides tokenizer.json. Private to this folder.
struct TokenizerConfig {
  // "bos_token" -> "<s>" and the like, from special_tokens_map.json and tokenizer_config.json
  // (which wins). As transformers writes them: a string, or an object with "content".
  std::map<std::string, std::string> special_tokens;
  // Chat template sources by name ("default", "tool_use", ...), from chat_template.jinja, else
  // tokenizer_config.json, else chat_template.json; a nameless one is "default".
  std::map<std::string, std::string> chat_templates;

  // Files that are missing are as good as empty. Throws EnvironmentError for one that cannot be
  // read or parsed.
  static TokenizerConfig load(const std::filesystem::path& model_folder);
};

}  // namespace trireme
