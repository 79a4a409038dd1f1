#include "model/pooling_config.h"

#include <array>
#include <nlohmann/json.hpp>

#include "model/config_fields.h"

namespace trireme {
namespace {

constexpr const char* kLastToken = "pooling_mode_lasttoken";
constexpr std::array kOtherModes = {"pooling_mode_cls_token", "pooling_mode_mean_tokens",
                                    "pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                                    "pooling_mode_weightedmean_tokens"};

}  // namespace

std::string other_pooling(const std::filesystem::path& model_folder) {
  const std::filesystem::path path = model_folder / kPoolingConfigFile;
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return "";
  const nlohmann::json json = read_json_file(path);
  const ConfigFields config(json, path_text(path));
  for (const char* mode : kOtherModes) {  // several at once are put side by side
    if (config.boolean_or(mode, false)) return mode;
  }
  if (config.boolean_or(kLastToken, false)) return "";
  const std::string mode = config.string_or("pooling_mode", "none that is known");  // newer files
  return mode == "lasttoken" ? "" : mode;
}

}  // namespace trireme
