#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/result.h"
#include "tests/temp_folder.h"

namespace trireme::test {

using Json = nlohmann::ordered_json;

inline std::filesystem::path source_path(const std::string& relative) {
  return std::filesystem::path(TRIREME_SOURCE_DIR) / relative;
}

// What transformers gives, by scripts/make_text_fixtures.py: model -> cases.
inline Json text_cases() {
  std::ifstream file(source_path("tests/data/text/cases.json"));
  return Json::parse(file);
}

// The demo's tokenizer.json into a folder.
inline void copy_demo_tokenizer(const TempFolder& folder) {
  std::filesystem::copy_file(source_path("demo/model/tokenizer.json"), folder / "tokenizer.json");
}

// The message of the EnvironmentError that `call` throws, "" when it throws none.
template <typename Call>
std::string environment_error(Call call) {
  try {
    call();
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "";
}

}  // namespace trireme::test
