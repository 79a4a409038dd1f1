#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// Finds stop strings in a text that arrives in pieces, and holds back what may become one. The
// outcome does not depend on how the text is cut into pieces: the stop string that is complete
// first wins, the longest of those that are complete at once.
class StopChecker {
 public:
  struct Output {
    std::string text;                 // may be sent: no part of it belongs to a stop string
    std::optional<std::string> stop;  // the stop string that ended the text
  };

  // Empty strings among `stops` are passed over.
  explicit StopChecker(std::vector<std::string> stops);

  // Pieces are whole UTF-8 characters, and so is what comes out. may_stop false: no stop string
  // that ends in this piece counts. Not to be called after a stop.
  Output feed(std::string_view piece, bool may_stop = true);

  // What is held back, when the text ends without a stop string.
  std::string flush();

 private:
  size_t held_size() const;

  std::vector<std::string> stops_;
  std::string held_;     // shorter than the longest stop string between calls
  size_t n_exempt_ = 0;  // of held_: where stop strings do not end
};

}  // namespace trireme
