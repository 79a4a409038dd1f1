#include "comm/control/control_codec.h"

#include <fmt/format.h>

#include <cstdint>

#include "comm/control/wire_convert.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr size_t kMaxFailureBytes = 8192;

std::string with_header(const wire::Frame& frame) {
  const size_t size_bytes = frame.ByteSizeLong();
  TRIREME_CHECK_MSG(size_bytes <= kMaxFrameBytes, "a control frame is larger than 256 MiB");
  std::string bytes(kFrameHeaderBytes + size_bytes, '\0');
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
    bytes[i] = static_cast<char>((size_bytes >> (8 * i)) & 0xff);
  }
  frame.SerializeWithCachedSizesToArray(
      reinterpret_cast<uint8_t*>(bytes.data() + kFrameHeaderBytes));
  return bytes;
}

template <typename Plain, typename Wire>
Result<ControlFrame> convert(const Wire& in, const char* name) {
  Plain out;
  const char* wrong = detail::from_wire(in, out);
  if (wrong != nullptr) return Error{fmt::format("{}.{} is out of range", name, wrong), wrong};
  return ControlFrame(std::move(out));
}

}  // namespace

std::string encode_frame(const RankHello& hello) {
  wire::Frame frame;
  detail::to_wire(hello, *frame.mutable_hello());
  return with_header(frame);
}

std::string encode_frame(const JobSpec& job) {
  wire::Frame frame;
  detail::to_wire(job, *frame.mutable_job());
  return with_header(frame);
}

std::string encode_frame(const RankState& state) {
  wire::Frame frame;
  detail::to_wire(state, *frame.mutable_state());
  return with_header(frame);
}

std::string encode_frame(const RankReady& ready) {
  wire::Frame frame;
  detail::to_wire(ready, *frame.mutable_ready());
  return with_header(frame);
}

std::string encode_frame(const GroupStart& start) {
  wire::Frame frame;
  frame.mutable_start()->set_kv_blocks(start.kv_blocks);
  frame.mutable_start()->set_keep_kv(start.keep_kv);
  return with_header(frame);
}

std::string encode_frame(const StepPlan& plan) {
  wire::Frame frame;
  detail::to_wire(plan, *frame.mutable_plan());
  return with_header(frame);
}

std::string encode_frame(const StepResult& result) {
  wire::Frame frame;
  detail::to_wire(result, *frame.mutable_step());
  return with_header(frame);
}

std::string encode_frame(const TokenMask& mask) {
  wire::Frame frame;
  detail::to_wire(mask, *frame.mutable_mask());
  return with_header(frame);
}

std::string encode_frame(const WeightsOrder& order) {
  wire::Frame frame;
  detail::to_wire(order, *frame.mutable_weights_order());
  return with_header(frame);
}

std::string encode_frame(const WeightsPrepared& prepared) {
  wire::Frame frame;
  detail::to_wire(prepared, *frame.mutable_weights_prepared());
  return with_header(frame);
}

std::string encode_frame(const ControlFailure& failure) {
  wire::Frame frame;
  frame.mutable_failure()->set_message(failure.message.substr(0, kMaxFailureBytes));
  return with_header(frame);
}

std::string encode_frame(const ControlDrain&) {
  wire::Frame frame;
  frame.mutable_drain();
  return with_header(frame);
}

std::string encode_frame(const ControlPing& ping) {
  wire::Frame frame;
  frame.mutable_ping()->set_quiet_ms(ping.quiet_ms);
  return with_header(frame);
}

std::string encode_frame(const ControlRenew&) {
  wire::Frame frame;
  frame.mutable_renew();
  return with_header(frame);
}

Result<ControlFrame> decode_frame(std::span<const char> payload) {
  wire::Frame frame;
  if (payload.size() > kMaxFrameBytes ||
      !frame.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return Error{"not a control frame", ""};
  }
  switch (frame.body_case()) {
    case wire::Frame::kHello: return convert<RankHello>(frame.hello(), "hello");
    case wire::Frame::kJob: return convert<JobSpec>(frame.job(), "job");
    case wire::Frame::kState: return convert<RankState>(frame.state(), "state");
    case wire::Frame::kReady: return convert<RankReady>(frame.ready(), "ready");
    case wire::Frame::kPlan: return convert<StepPlan>(frame.plan(), "plan");
    case wire::Frame::kStep: return convert<StepResult>(frame.step(), "result");
    case wire::Frame::kMask: return convert<TokenMask>(frame.mask(), "mask");
    case wire::Frame::kWeightsOrder: return convert<WeightsOrder>(frame.weights_order(), "order");
    case wire::Frame::kWeightsPrepared:
      return convert<WeightsPrepared>(frame.weights_prepared(), "prepared");
    case wire::Frame::kStart:
      if (frame.start().kv_blocks() < 1) {
        return Error{"start.kv_blocks is out of range", "kv_blocks"};
      }
      return ControlFrame(
          GroupStart{.kv_blocks = frame.start().kv_blocks(), .keep_kv = frame.start().keep_kv()});
    case wire::Frame::kFailure:
      return ControlFrame(
          ControlFailure{.message = frame.failure().message().substr(0, kMaxFailureBytes)});
    case wire::Frame::kDrain: return ControlFrame(ControlDrain{});
    case wire::Frame::kPing:
      if (frame.ping().quiet_ms() < 0) return Error{"ping.quiet_ms is out of range", "quiet_ms"};
      return ControlFrame(ControlPing{.quiet_ms = frame.ping().quiet_ms()});
    case wire::Frame::kRenew: return ControlFrame(ControlRenew{});
    case wire::Frame::BODY_NOT_SET: break;
  }
  return Error{"a control frame of an unknown kind", ""};
}

}  // namespace trireme
