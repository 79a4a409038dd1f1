#pragma once

#include "comm/control/control_codec.h"
#include "control.pb.h"

namespace trireme::detail {

// Plain struct <-> generated message. from_wire returns the name of the first field that is out of
// range, nullptr when all are in.
void to_wire(const RankHello& in, wire::Hello& out);
void to_wire(const JobSpec& in, wire::Job& out);
void to_wire(const RankState& in, wire::State& out);
void to_wire(const RankReady& in, wire::Ready& out);
void to_wire(const StepPlan& in, wire::Plan& out);
void to_wire(const StepResult& in, wire::Step& out);
void to_wire(const TokenMask& in, wire::Mask& out);
void to_wire(const WeightsOrder& in, wire::WeightsOrder& out);
void to_wire(const WeightsPrepared& in, wire::WeightsPrepared& out);

const char* from_wire(const wire::Hello& in, RankHello& out);
const char* from_wire(const wire::Job& in, JobSpec& out);
const char* from_wire(const wire::State& in, RankState& out);
const char* from_wire(const wire::Ready& in, RankReady& out);
const char* from_wire(const wire::Plan& in, StepPlan& out);
const char* from_wire(const wire::Step& in, StepResult& out);
const char* from_wire(const wire::Mask& in, TokenMask& out);
const char* from_wire(const wire::WeightsOrder& in, WeightsOrder& out);
const char* from_wire(const wire::WeightsPrepared& in, WeightsPrepared& out);

}  // namespace trireme::detail
