#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/result.h"

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

// A folder that goes away with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "trireme-text-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  // The demo's tokenizer.json under this folder.
  void copy_demo_tokenizer() const {
    std::filesystem::copy_file(source_path("demo/model/tokenizer.json"), path_ / "tokenizer.json");
  }

 private:
  std::filesystem::path path_;
};

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
