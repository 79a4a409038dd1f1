#include "comm/control/frame_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "comm/control/control_codec.h"

namespace trireme {
namespace {

std::string framed(const std::string& payload) {
  std::string bytes(kFrameHeaderBytes, '\0');
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
    bytes[i] = static_cast<char>((payload.size() >> (8 * i)) & 0xff);
  }
  return bytes + payload;
}

// Feeds `stream` in pieces of random sizes and gives the frames that came out.
std::vector<std::string> cut(FrameReader& reader, const std::string& stream, std::mt19937& random,
                             bool& oversize) {
  std::vector<std::string> frames;
  size_t at = 0;
  oversize = false;
  for (;;) {
    std::span<const char> payload;
    const FrameReader::Next next = reader.next(payload);
    if (next == FrameReader::Next::kFrame) {
      frames.emplace_back(payload.begin(), payload.end());
      continue;
    }
    if (next == FrameReader::Next::kOversize) {
      oversize = true;
      return frames;
    }
    if (at == stream.size()) return frames;
    const std::span<char> room = reader.prepare();
    EXPECT_FALSE(room.empty());
    const size_t n = std::min({room.size(), stream.size() - at, size_t{1} + random() % 5000});
    std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(at), n, room.begin());
    reader.commit(n);
    at += n;
  }
}

TEST(ControlFrameReader, CutsAStreamWhereverItIsSplit) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> sent;
    std::string stream;
    for (int i = 0; i < 20; ++i) {
      sent.emplace_back(random() % 9000, static_cast<char>('a' + i));
      stream += framed(sent.back());
    }
    FrameReader reader(9000);
    bool oversize = false;
    EXPECT_EQ(cut(reader, stream, random, oversize), sent);
    EXPECT_FALSE(oversize);
  }
}

TEST(ControlFrameReader, RefusesAFrameAboveTheLimitByItsHeaderAlone) {
  std::mt19937 random(4);
  FrameReader reader(100);
  bool oversize = false;
  EXPECT_EQ(
      cut(reader, framed(std::string(100, 'x')) + std::string("\x65\0\0\0", 4), random, oversize)
          .size(),
      1U);
  EXPECT_TRUE(oversize);
}

TEST(ControlFrameReader, HoldsNoMoreThanArrivedWhateverAHeaderClaims) {
  FrameReader reader(kMaxFrameBytes);
  const std::string header("\xff\xff\xff\x0f", 4);  // just below 256 MiB
  std::span<char> room = reader.prepare();
  std::copy(header.begin(), header.end(), room.begin());
  reader.commit(header.size());
  std::span<const char> payload;
  EXPECT_EQ(reader.next(payload), FrameReader::Next::kNeedMore);
  EXPECT_LE(reader.prepare().size(), 64U << 10);
}

}  // namespace
}  // namespace trireme
