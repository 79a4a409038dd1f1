#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/result.h"

namespace trireme {

constexpr size_t kMaxPartHeadBytes = 4096;
constexpr int kMaxParts = 16;

// The boundary that a Content-Type of multipart/form-data names (RFC 7578, RFC 2046). An error when
// it is none.
Result<std::string> multipart_boundary(std::string_view content_type);

// One field of a form.
struct FormPart {
  std::string name;
  std::optional<std::string> filename;
};

// Reads a form as it comes, in memory of a part's head. Strict: nothing before the first boundary
// or after the last, lines end in CR LF, every part is a named field. The same events however the
// bytes are cut, but for the cuts of on_data.
class MultipartParser {
 public:
  struct Events {
    // An error ends it.
    std::function<std::optional<Error>(const FormPart& part)> on_part;
    std::function<std::optional<Error>(std::string_view bytes)> on_data;
    std::function<std::optional<Error>()> on_part_end;
  };

  MultipartParser(std::string boundary, Events events);

  // After an error nothing more is to be fed.
  std::optional<Error> feed(std::string_view bytes);
  // Whether the last boundary came.
  bool is_done() const { return state_ == State::kDone; }

 private:
  enum class State : uint8_t { kBegin, kAfterBoundary, kHead, kData, kDone };

  // True: the state changed, or there may be more to do.
  Result<bool> advance();
  Result<bool> read_after_boundary();
  Result<bool> read_head();
  Result<bool> read_data();

  const std::string delimiter_;  // CR LF, two hyphens and the boundary
  const Events events_;
  State state_ = State::kBegin;
  int n_parts_ = 0;
  std::string buffer_;  // what is not taken yet
  size_t begin_ = 0;    // of that
};

}  // namespace trireme
