#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace trireme {

// Reads one JSON object {"name": ..., "arguments": {...}}, a character at a time, as models write
// it: the members in any order, "parameters" for "arguments", others passed over. Looks at no more
// than it needs to find them: values are not checked, and arguments are given out as they were
// written.
class CallScanner {
 public:
  enum class State : uint8_t {
    kOpen,    // the object goes on
    kClosed,  // it has ended; a call if there is a name
    kFailed,  // it is not what it should be; what was given out stands
  };

  // `only_calls`: an object with other members than those that calls have is none.
  explicit CallScanner(bool only_calls) : only_calls_(only_calls) {}

  // The first character is the '{'. `arguments` is appended to, once the name is known.
  State feed(char c, std::string& arguments);

  // Not empty once it is known.
  const std::string& name() const { return name_; }

 private:
  enum class Place : uint8_t { kStart, kFirstKey, kKey, kColon, kValue, kInValue, kAfterValue };
  enum class Member : uint8_t { kKey, kName, kArguments, kOther };

  State feed_value(char c, std::string& arguments);
  State end_value(std::string& arguments);
  State close(std::string& arguments);
  void give(std::string text, std::string& arguments);

  bool only_calls_;
  Place place_ = Place::kStart;
  Member member_ = Member::kKey;
  std::string name_;
  std::string held_;  // arguments before the name
  bool has_arguments_ = false;
  // The key or value under way:
  std::string value_;  // its text, but for arguments that are given out as they come
  bool keeps_ = false;
  int depth_ = 0;  // open brackets
  bool in_string_ = false;
  bool escaped_ = false;
};

}  // namespace trireme
