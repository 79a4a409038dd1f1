#include "comm/control/frame_reader.h"

#include <algorithm>
#include <cstring>

#include "comm/control/control_codec.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr size_t kReadBytes = 4096;

uint32_t payload_bytes(const char* header) {
  uint32_t size = 0;
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
    size |= static_cast<uint32_t>(static_cast<unsigned char>(header[i])) << (8 * i);
  }
  return size;
}

}  // namespace

std::span<char> FrameReader::prepare() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  // Grows with what has arrived, not with what a header claims.
  if (buffer_.size() - end_ < kReadBytes) {
    buffer_.resize(std::max(end_ + kReadBytes, 2 * buffer_.size()));
  }
  // All but an incomplete frame was given out by next().
  const size_t most = kFrameHeaderBytes + max_payload_bytes_ + kReadBytes;
  TRIREME_CHECK(end_ < most);
  return {buffer_.data() + end_, std::min(buffer_.size(), most) - end_};
}

void FrameReader::commit(size_t n_bytes) {
  TRIREME_CHECK(n_bytes <= buffer_.size() - end_);
  end_ += n_bytes;
}

FrameReader::Next FrameReader::next(std::span<const char>& payload) {
  const size_t held = end_ - begin_;
  if (held < kFrameHeaderBytes) return Next::kNeedMore;
  const size_t size = payload_bytes(buffer_.data() + begin_);
  if (size > max_payload_bytes_) return Next::kOversize;
  if (held < kFrameHeaderBytes + size) return Next::kNeedMore;
  payload = {buffer_.data() + begin_ + kFrameHeaderBytes, size};
  begin_ += kFrameHeaderBytes + size;
  return Next::kFrame;
}

}  // namespace trireme
