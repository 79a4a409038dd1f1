#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

// Cuts a byte stream into frames. Holds at most one frame of the allowed size and what one read
// brought beyond it, whatever a header claims.
class FrameReader {
 public:
  enum class Next : uint8_t { kNeedMore, kFrame, kOversize };

  explicit FrameReader(size_t max_payload_bytes) : max_payload_bytes_(max_payload_bytes) {}

  // The first frame may be held to a smaller size than those after it.
  void set_max_payload_bytes(size_t max_payload_bytes) { max_payload_bytes_ = max_payload_bytes; }

  // Room to read into, never empty. Ends the life of the payload that next() gave.
  std::span<char> prepare();
  void commit(size_t n_bytes);

  // kFrame: `payload` is one frame's, valid until prepare(). kOversize: the stream is not to be
  // read further.
  Next next(std::span<const char>& payload);
  // What next() has not given out; valid until prepare().
  std::span<const char> unread() const { return {buffer_.data() + begin_, end_ - begin_}; }

 private:
  size_t max_payload_bytes_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // first byte not yet given out
  size_t end_ = 0;    // one past the last byte received
};

}  // namespace trireme
