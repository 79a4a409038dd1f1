#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/result.h"

namespace trireme {

// Reads the fields of one JSON object with their types and limits. The first error is kept and
// names field, value and limit; reads after it give the fallback. An absent or null field gives
// the fallback too.
class JsonFields {
 public:
  // `prefix` is put before field names in messages ("messages[0]."). The object must outlive this.
  explicit JsonFields(const nlohmann::ordered_json& object, std::string prefix = "");

  bool has(std::string_view name) const;  // present and not null
  int64_t integer(std::string_view name, int64_t fallback, int64_t min, int64_t max);
  double number(std::string_view name, double fallback, double min, double max);
  bool boolean(std::string_view name, bool fallback);
  std::string string(std::string_view name, std::string_view fallback);
  // One string, or a list of at most `max_count`, none of them empty.
  std::vector<std::string> strings(std::string_view name, size_t max_count);
  // Every id in [0, vocab_size), at most `max_count` of them.
  std::vector<int32_t> token_ids(std::string_view name, int32_t vocab_size, size_t max_count);
  // Null when absent, or (an error) not an object.
  const nlohmann::ordered_json* object(std::string_view name);
  // Null when absent.
  const nlohmann::ordered_json* value(std::string_view name) const;

  void fail(std::string_view name, std::string message);
  const std::optional<Error>& error() const { return error_; }

 private:
  std::string full_name(std::string_view name) const { return prefix_ + std::string(name); }

  const nlohmann::ordered_json& object_;
  std::string prefix_;
  std::optional<Error> error_;
};

// A JSON value as an error message shows it: its text, cut when long.
std::string shown(const nlohmann::ordered_json& value);

// `list` as token ids, each in [0, vocab_size). The error names `name`.
Result<std::vector<int32_t>> parse_token_ids(const nlohmann::ordered_json& list,
                                             const std::string& name, int32_t vocab_size,
                                             size_t max_count);

}  // namespace trireme
