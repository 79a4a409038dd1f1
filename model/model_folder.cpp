#include "model/model_folder.h"

#include <cstdlib>
#include <optional>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "kernels/result.h"
#include "model/arch_spec.h"
#include "model/classifier_head.h"
#include "model/config_fields.h"
#include "model/model_limits.h"
#include "model/packed_folder.h"
#include "model/source_model.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxArchitectures = 16;

// "LlamaModel" is the decoder of "LlamaForCausalLM".
const ArchSpec* find_bare_architecture(std::string_view name) {
  for (const ArchSpec* arch : kArchitectures) {
    const std::string_view stem = arch->hf_name.substr(0, arch->hf_name.find("For"));
    if (name == std::string(stem) + "Model") return arch;
  }
  return nullptr;
}

const ArchSpec& architecture_of(const ConfigFields& config) {
  const auto names = config.strings("architectures", kMaxArchitectures);
  if (!names.empty()) {
    const ArchSpec* arch = find_architecture(names.front());
    if (arch == nullptr) arch = find_classifier_base(names.front());
    if (arch == nullptr) arch = find_bare_architecture(names.front());
    if (arch != nullptr) return *arch;
    config.fail("architectures", fmt::format("must be one of {}, {}", supported_architectures(),
                                             classifier_architectures()));
  }
  const std::string type = config.string_or("model_type", "");
  for (const ArchSpec* arch : kArchitectures) {
    if (arch->model_type == type) return *arch;
  }
  config.fail("architectures", fmt::format("must be one of {}", supported_architectures()));
}

// Whether the model named is one with an lm_head.
bool names_lm_head(const ConfigFields& config) {
  const auto names = config.strings("architectures", kMaxArchitectures);
  return names.empty() || find_architecture(names.front()) != nullptr;
}

std::vector<int32_t> token_ids(const ConfigFields& fields, std::string_view name,
                               int32_t vocab_size) {
  std::vector<int32_t> out;
  for (const int64_t id : fields.integers(name, kMaxEndTokens, {0, vocab_size - 1})) {
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

// The end tokens of generation_config.json stand above those of config.json, as in transformers.
void read_special_tokens(const fs::path& folder, const ConfigFields& config, ModelConfig& out) {
  const fs::path path = folder / "generation_config.json";
  std::error_code code;
  if (fs::exists(path, code)) {
    const nlohmann::json json = read_json_file(path);
    const ConfigFields generation(json, path_text(path));
    out.eos_token_ids = token_ids(generation, "eos_token_id", out.vocab_size);
    const auto bos = token_ids(generation, "bos_token_id", out.vocab_size);
    if (!bos.empty()) out.bos_token_id = bos.front();
  }
  if (out.eos_token_ids.empty()) {
    out.eos_token_ids = token_ids(config, "eos_token_id", out.vocab_size);
  }
  if (out.bos_token_id < 0) {
    const auto bos = token_ids(config, "bos_token_id", out.vocab_size);
    if (!bos.empty()) out.bos_token_id = bos.front();
  }
}

bool holds_model(const fs::path& folder) {
  std::error_code code;
  return fs::is_regular_file(folder / "config.json", code);
}

std::optional<fs::path> find_demo_model() {
  std::error_code code;
  fs::path folder = fs::read_symlink("/proc/self/exe", code).parent_path();
  while (!code && !folder.empty()) {
    if (holds_model(folder / "demo" / "model")) return folder / "demo" / "model";
    if (folder == folder.root_path()) break;
    folder = folder.parent_path();
  }
  if (holds_model("demo/model")) return fs::path("demo/model");
  return std::nullopt;
}

}  // namespace

ModelConfig read_model_config(const fs::path& model_folder) {
  const fs::path path = model_folder / "config.json";
  const nlohmann::json json = read_json_file(path);
  const ConfigFields config(json, path_text(path));
  const ArchSpec& arch = architecture_of(config);
  ModelConfig out = arch.parse_config(config);
  out.architecture = arch.hf_name;
  // What stands in the place of an lm_head that is not there is never used.
  if (!names_lm_head(config) || SourceModel::is_bare_decoder(model_folder))
    out.tie_embeddings = true;
  read_special_tokens(model_folder, config, out);
  TRIREME_CHECK_MSG(config_fault(out).empty(), "a parsed config breaks its own limits");
  return out;
}

bool has_lm_head(const ModelPlace& model, const ModelConfig& served) {
  const fs::path path = model.folder / "config.json";
  if (!holds_model(model.folder)) return true;
  const nlohmann::json json = read_json_file(path);
  const ConfigFields config(json, path_text(path));
  if (!names_lm_head(config)) return false;
  return !served.tie_embeddings || config.boolean_or("tie_word_embeddings", false);
}

fs::path resolve_model(const std::string& model) {
  if (model == "demo") {
    const char* given = std::getenv("TRIREME_DEMO_MODEL");
    if (given != nullptr && *given != '\0') {
      if (holds_model(given)) return given;
      throw EnvironmentError(fmt::format(
          "TRIREME_DEMO_MODEL={}: no config.json there; unset it or give the demo model's folder",
          given));
    }
    if (const auto found = find_demo_model()) return *found;
    throw EnvironmentError(
        "the demo model (demo/model) is neither near the executable nor here; set "
        "TRIREME_DEMO_MODEL to its folder or run from the source tree");
  }
  if (holds_model(model)) return model;
  std::error_code code;
  if (model.ends_with(kPackedSuffix) && fs::is_regular_file(model, code)) return model;
  throw EnvironmentError(
      fmt::format("{}: {}; give the folder of a Hugging Face model, a packed file, or demo", model,
                  fs::is_directory(model, code) ? "holds no config.json" : "no such folder"));
}

}  // namespace trireme
