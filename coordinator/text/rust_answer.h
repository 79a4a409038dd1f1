#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/text/text_layer.h"

namespace trireme::detail {

// Owns the buffer that a call of text_layer.h writes. Private to this folder.
class RustAnswer {
 public:
  RustAnswer() = default;
  ~RustAnswer() { trireme_text_buffer_free(buffer_); }
  RustAnswer(const RustAnswer&) = delete;
  RustAnswer& operator=(const RustAnswer&) = delete;

  // Where the call writes; once for each answer.
  TextBuffer* out() { return &buffer_; }

  std::string text() const;          // the answer, or the error message
  std::vector<int32_t> ids() const;  // the answer of a call that answers ids
  bool flag() const;                 // the answer of a call that answers one byte

 private:
  TextBuffer buffer_{nullptr, 0, 0};
};

}  // namespace trireme::detail
