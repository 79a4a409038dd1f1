#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// What the requests of one key may have.
struct KeyTerms {
  int32_t max_requests = 0;         // generation requests being answered at once; 0: no limit
  std::optional<int32_t> priority;  // of those that name none, and the best that they may name
  bool operator==(const KeyTerms&) const = default;
};

// The keys that clients may show. Only their SHA-256 is kept.
class ApiKeys {
 public:
  ApiKeys() = default;  // none: nobody needs one

  // A line of `file` is "name:key" or "name:sha256:HEX", and behind it, after spaces, perhaps
  // "max_requests=N" (1 to 100000) and "priority=N" (-1000 to 1000); empty lines and those that
  // begin with '#' are passed over. `from_environment` is a key named "environment". Either may be
  // empty. Throws EnvironmentError naming file and line, never a key.
  static ApiKeys read(const std::filesystem::path& file, std::string_view from_environment);

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  // The name of a key, or nothing. Takes as long for a wrong key as for a right one.
  std::optional<std::string> find(std::string_view key) const;
  // By name.
  std::map<std::string, KeyTerms> terms() const;

 private:
  struct Entry {
    std::string name;
    std::array<unsigned char, 32> sha256;
    KeyTerms terms;
  };

  void add(std::string_view name, std::string_view value);
  void add_line(std::string_view line);

  std::vector<Entry> entries_;
};

}  // namespace trireme
