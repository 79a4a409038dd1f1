#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <variant>

#include "comm/control/rank_state.h"
#include "comm/control/step_plan.h"
#include "kernels/result.h"

namespace trireme {

// Something the other side cannot go on after, told before the connection closes: by a rank that it
// cannot start, by the coordinator that it refuses a hello. One line, cause and mend.
struct ControlFailure {
  std::string message;
};

// Coordinator to rank: finish what was planned, then end.
struct ControlDrain {};

// Coordinator to rank: still here.
struct ControlPing {
  int32_t quiet_ms = 0;  // until the next one nothing may come for so long: no network is cut
};

// Either way, under TLS: the last frame of this session. The coordinator asks for it, the rank says
// it too and then sends nothing until one byte in clear tells that it may begin a new session on
// the same connection (which may be with another coordinator in the same process).
struct ControlRenew {};
constexpr char kRenewByte = 'R';

// One frame of the control connection.
using ControlFrame = std::variant<RankHello, JobSpec, RankState, RankReady, GroupStart, StepPlan,
                                  StepResult, WeightsOrder, WeightsPrepared, ControlFailure,
                                  ControlDrain, ControlPing, ControlRenew, TokenMask>;

// On the wire a frame is its payload's size (4 bytes, little endian), then the payload.
constexpr size_t kFrameHeaderBytes = 4;
constexpr size_t kMaxFrameBytes = size_t{256} << 20;  // payload, after the hello was accepted
constexpr size_t kMaxHelloBytes = 4096;               // payload, before

// Header and payload.
std::string encode_frame(const RankHello& hello);
std::string encode_frame(const JobSpec& job);
std::string encode_frame(const RankState& state);
std::string encode_frame(const RankReady& ready);
std::string encode_frame(const GroupStart& start);
std::string encode_frame(const StepPlan& plan);
std::string encode_frame(const StepResult& result);
std::string encode_frame(const TokenMask& mask);
std::string encode_frame(const WeightsOrder& order);
std::string encode_frame(const WeightsPrepared& prepared);
std::string encode_frame(const ControlFailure& failure);
std::string encode_frame(const ControlDrain& drain);
std::string encode_frame(const ControlPing& ping);
std::string encode_frame(const ControlRenew& renew);

// Any bytes give a frame whose fields are in range (counts and sizes not negative, ranks inside the
// world, floats finite where they steer), or an error that names the field.
Result<ControlFrame> decode_frame(std::span<const char> payload);

}  // namespace trireme
