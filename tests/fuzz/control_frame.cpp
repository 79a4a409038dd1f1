#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "comm/control/control_codec.h"
#include "comm/control/frame_reader.h"
#include "comm/control/world_shape.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

struct CheckRanges {
  void operator()(const RankHello& hello) const {
    TRIREME_CHECK(hello.world_rank >= 0 && hello.world_rank < hello.world_size);
  }
  void operator()(const JobSpec& job) const {
    TRIREME_CHECK(job.layout.tp >= 1 && job.layout.pp >= 1);
    TRIREME_CHECK(job.replica >= 0 && job.replica < job.n_replicas);
    const WorldShape shape = world_shape(job);
    TRIREME_CHECK(shape.max_message_bytes >= 4096);
  }
  void operator()(const RankReady& ready) const {
    TRIREME_CHECK(ready.kv_blocks >= 0 && ready.kv_kept >= 0);
  }
  void operator()(const GroupStart& start) const { TRIREME_CHECK(start.kv_blocks >= 1); }
  void operator()(const StepPlan& plan) const {
    TRIREME_CHECK(plan.n_tokens() >= 0);
    for (const SequencePlan& sequence : plan.sequences) {
      TRIREME_CHECK(sequence.slot >= 0 && sequence.start_position >= 0);
      TRIREME_CHECK(std::isfinite(sequence.sampling.temperature));
      TRIREME_CHECK(std::isfinite(sequence.sampling.top_p));
      for (const int32_t id : sequence.input_ids) TRIREME_CHECK(id >= kTokenFromSlot);
      for (const int32_t block : sequence.new_blocks) TRIREME_CHECK(block >= 0);
    }
  }
  void operator()(const StepResult& result) const {
    for (const SequenceResult& sequence : result.sequences) TRIREME_CHECK(sequence.slot >= 0);
  }
  void operator()(const RankState& state) const {
    TRIREME_CHECK(state.activity <= RankActivity::kWaiting);
  }
  void operator()(const WeightsOrder& order) const {
    TRIREME_CHECK(order.kind <= WeightsOrder::Kind::kDrop);
  }
  void operator()(const TokenMask& mask) const {
    const auto is_set = [](uint32_t word) { return word != 0; };
    TRIREME_CHECK(mask.words.empty() || std::any_of(mask.words.begin(), mask.words.end(), is_set));
  }
  void operator()(const WeightsPrepared&) const {}
  void operator()(const ControlFailure&) const {}
  void operator()(const ControlDrain&) const {}
  void operator()(const ControlPing&) const {}
  void operator()(const ControlRenew&) const {}
};

std::string encode(const ControlFrame& frame) {
  return std::visit([](const auto& plain) { return encode_frame(plain); }, frame);
}

std::span<const char> payload_of(const std::string& frame) {
  return std::span(frame).subspan(kFrameHeaderBytes);
}

// What decodes is in range, and what it encodes to decodes to the same.
void check_payload(std::span<const char> payload) {
  const Result<ControlFrame> frame = decode_frame(payload);
  if (!frame) return fuzz::check_message(frame.error().message);
  std::visit(CheckRanges{}, *frame);
  const std::string bytes = encode(*frame);
  const Result<ControlFrame> again = decode_frame(payload_of(bytes));
  TRIREME_CHECK(again.ok());
  TRIREME_CHECK(again->index() == frame->index());
  TRIREME_CHECK(encode(*again) == bytes);
}

// The frames of a stream that arrives in pieces of 1 to `max_piece` bytes; an oversize one ends it.
std::vector<std::string> frames_of(std::string_view stream, size_t max_piece) {
  FrameReader reader(kMaxHelloBytes);
  std::vector<std::string> frames;
  size_t piece = 0;
  while (!stream.empty()) {
    const std::span<char> room = reader.prepare();
    piece = piece % max_piece + 1;
    const size_t n = std::min({piece, room.size(), stream.size()});
    std::memcpy(room.data(), stream.data(), n);
    reader.commit(n);
    stream.remove_prefix(n);
    std::span<const char> payload;
    FrameReader::Next next = reader.next(payload);
    for (; next == FrameReader::Next::kFrame; next = reader.next(payload)) {
      frames.emplace_back(payload.begin(), payload.end());
    }
    if (next == FrameReader::Next::kOversize) break;
  }
  return frames;
}

}  // namespace
}  // namespace trireme

// The input is a connection's bytes, and its payload alone too: changes seldom keep the size in
// front of it right.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  const std::string_view stream = fuzz::text_of(data, size);
  const std::vector<std::string> frames = frames_of(stream, size + 1);
  TRIREME_CHECK(frames == frames_of(stream, 7));
  for (const std::string& frame : frames) check_payload(frame);
  if (size >= kFrameHeaderBytes) check_payload(std::span(stream).subspan(kFrameHeaderBytes));
  return 0;
}
