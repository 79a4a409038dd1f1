#include "model/rope_config.h"

#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include "model/model_limits.h"

namespace trireme {
namespace {

using Scaling = RopeConfig::Scaling;

constexpr std::array<std::pair<std::string_view, Scaling>, 5> kScalings = {{
    {"default", Scaling::kNone},
    {"linear", Scaling::kLinear},
    {"dynamic", Scaling::kDynamic},
    {"yarn", Scaling::kYarn},
    {"llama3", Scaling::kLlama3},
}};

constexpr ConfigFields::NumberLimits kFactor = {1.0, 1.0e4};
constexpr ConfigFields::NumberLimits kSmall = {0.0, 1.0e4};
constexpr ConfigFields::NumberLimits kTheta = {1.0001, 1.0e12};
constexpr ConfigFields::IntLimits kPositions = {1, kMaxPosition};

bool within(double value, ConfigFields::NumberLimits limits) {
  return value >= limits.min && value <= limits.max;
}

void refuse_partial_rotation(const ConfigFields& fields) {
  if (fields.number_or("partial_rotary_factor", 1.0, kSmall) != 1.0) {
    fields.fail("partial_rotary_factor", "must be 1 (a partial rotation is not supported)");
  }
}

Scaling parse_scaling(const ConfigFields& rope) {
  const std::string_view key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string name = rope.string_or(key, "default");
  for (const auto& [known, scaling] : kScalings) {
    if (name == known) return scaling;
  }
  rope.fail(key, "must be default, linear, dynamic, yarn or llama3 (no other is supported)");
}

void parse_llama3(const ConfigFields& rope, RopeConfig& out) {
  out.low_freq_factor = rope.number("low_freq_factor", {1.0e-3, kSmall.max});
  out.high_freq_factor = rope.number("high_freq_factor", {1.0e-3, kSmall.max});
  if (out.high_freq_factor <= out.low_freq_factor) {
    rope.fail("high_freq_factor", "must be greater than low_freq_factor");
  }
}

// A zero means "not given" here, as it does in transformers.
void parse_yarn(const ConfigFields& rope, RopeConfig& out) {
  const auto given_or = [&rope](std::string_view name, double fallback) {
    const double value = rope.number_or(name, 0.0, kSmall);
    return value == 0.0 ? fallback : value;
  };
  out.beta_fast = given_or("beta_fast", 32.0);
  out.beta_slow = given_or("beta_slow", 1.0);
  if (out.beta_fast < out.beta_slow) rope.fail("beta_fast", "must not be below beta_slow");
  out.attention_factor = rope.number_or("attention_factor", 0.0, {1.0e-3, kSmall.max});
  out.mscale = given_or("mscale", 0.0);
  out.mscale_all_dim = given_or("mscale_all_dim", 0.0);
  out.truncate = rope.boolean_or("truncate", true);
}

// llama3 and yarn: the length that the model was trained for before it was stretched.
int32_t parse_original_max(const ConfigFields& config, const ConfigFields& rope,
                           int32_t max_position) {
  constexpr std::string_view kName = "original_max_position_embeddings";
  const ConfigFields& holder = config.has(kName) ? config : rope;
  return static_cast<int32_t>(holder.integer_or(kName, max_position, kPositions));
}

}  // namespace

RopeConfig parse_rope_config(const ConfigFields& config, int32_t max_position) {
  RopeConfig out;
  out.theta = config.number_or("rope_theta", out.theta, kTheta);
  out.original_max_position = max_position;
  // transformers 5 reads an old file's rope_scaling before rope_parameters.
  std::optional<ConfigFields> rope = config.object("rope_scaling");
  if (!rope || rope->empty()) rope = config.object("rope_parameters");
  refuse_partial_rotation(config);
  if (!rope) return out;
  refuse_partial_rotation(*rope);
  const auto nested = rope->object_names();
  if (!nested.empty()) {
    rope->fail(nested.front(),
               "must not be an object (one rotation per layer type is not supported)");
  }
  out.theta = rope->number_or("rope_theta", out.theta, kTheta);
  out.scaling = parse_scaling(*rope);
  if (out.scaling == Scaling::kNone) return out;

  if (out.scaling == Scaling::kYarn || out.scaling == Scaling::kLlama3) {
    out.original_max_position = parse_original_max(config, *rope, max_position);
  }
  if (out.scaling == Scaling::kYarn && !rope->has("factor")) {
    out.factor = static_cast<double>(max_position) / out.original_max_position;
    if (!within(out.factor, kFactor)) rope->fail("factor", "must be a number from 1 to 10000");
  } else {
    out.factor = rope->number("factor", kFactor);
  }
  if (out.scaling == Scaling::kLlama3) parse_llama3(*rope, out);
  if (out.scaling == Scaling::kYarn) parse_yarn(*rope, out);
  return out;
}

std::string rope_fault(const RopeConfig& rope) {
  if (rope.scaling > Scaling::kLlama3) return "rope scaling";
  if (!within(rope.theta, kTheta)) return "rope theta";
  if (!within(rope.factor, kFactor)) return "rope factor";
  if (rope.original_max_position < 1 || rope.original_max_position > kMaxPosition) {
    return "rope original_max_position";
  }
  for (const double value :
       {rope.low_freq_factor, rope.high_freq_factor, rope.beta_fast, rope.beta_slow,
        rope.attention_factor, rope.mscale, rope.mscale_all_dim}) {
    if (!within(value, kSmall)) return "a rope parameter";
  }
  if (rope.scaling == Scaling::kLlama3 &&
      !(rope.low_freq_factor > 0.0 && rope.high_freq_factor > rope.low_freq_factor)) {
    return "rope low_freq_factor and high_freq_factor";
  }
  if (rope.scaling == Scaling::kYarn && !(rope.beta_slow > 0.0 && rope.beta_fast > 0.0)) {
    return "rope beta_fast and beta_slow";
  }
  return "";
}

}  // namespace trireme
