#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace trireme {

// Parses JSON that came from outside: nesting is bounded and a name may stand once in an object.
// `file` and `offset` (of text[0] in the file) are for the message. Throws EnvironmentError.
nlohmann::json parse_json(std::string_view text, const std::string& file, uint64_t offset);

// Reads and parses a whole JSON file of bounded size. Throws EnvironmentError.
nlohmann::json read_json_file(const std::filesystem::path& path);

// A value as messages show it: one line of ASCII, cut when long. A string is in quotes.
std::string shown_json(const nlohmann::json& value, size_t max_bytes = 60);

// A file's path as messages show it.
std::string path_text(const std::filesystem::path& path);

// The fields of one JSON object, read with their limits. Every reader throws EnvironmentError
// naming file, field, value, what it must be, and the mend. A null field counts as missing, except
// in has_key(). Keeps a reference to `object`.
class ConfigFields {
 public:
  // `prefix` is put before the field names in messages ("rope_scaling.").
  ConfigFields(const nlohmann::json& object, std::string file, std::string prefix = "");

  struct IntLimits {
    int64_t min = 0;
    int64_t max = std::numeric_limits<int32_t>::max();
  };
  struct NumberLimits {
    double min = 0.0;
    double max = 0.0;
  };

  bool has_key(std::string_view name) const;  // even if its value is null
  bool has(std::string_view name) const;      // neither missing nor null
  bool empty() const;

  int64_t integer(std::string_view name, IntLimits limits) const;
  int64_t integer_or(std::string_view name, int64_t fallback, IntLimits limits) const;
  double number(std::string_view name, NumberLimits limits) const;
  double number_or(std::string_view name, double fallback, NumberLimits limits) const;
  bool boolean_or(std::string_view name, bool fallback) const;
  std::string string(std::string_view name) const;
  std::string string_or(std::string_view name, std::string_view fallback) const;
  // An integer, or a list of at most max_size integers; missing: empty.
  std::vector<int64_t> integers(std::string_view name, size_t max_size, IntLimits limits) const;
  // A list of at most max_size strings; missing: empty.
  std::vector<std::string> strings(std::string_view name, size_t max_size) const;
  std::optional<ConfigFields> object(std::string_view name) const;
  // Names of the fields that are objects themselves.
  std::vector<std::string> object_names() const;

  // file: "prefix.name" is VALUE, but WHY; mend
  [[noreturn]] void fail(std::string_view name, std::string_view why) const;
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json* find(std::string_view name) const;
  int64_t checked_integer(std::string_view name, const nlohmann::json& value,
                          IntLimits limits) const;

  const nlohmann::json* object_;
  std::string file_;
  std::string prefix_;
};

}  // namespace trireme
