#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// The keys that clients may show. Only their SHA-256 is kept.
class ApiKeys {
 public:
  ApiKeys() = default;  // none: nobody needs one

  // A line of `file` is "name:key" or "name:sha256:HEX"; empty lines and those that begin with '#'
  // are passed over. `from_environment` is a key named "environment". Either may be empty. Throws
  // EnvironmentError naming file and line, never a key.
  static ApiKeys read(const std::filesystem::path& file, std::string_view from_environment);

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  // The name of a key, or nothing. Takes as long for a wrong key as for a right one.
  std::optional<std::string> find(std::string_view key) const;

 private:
  struct Entry {
    std::string name;
    std::array<unsigned char, 32> sha256;
  };

  void add(std::string_view name, std::string_view value);
  void add_line(std::string_view line);

  std::vector<Entry> entries_;
};

}  // namespace trireme
