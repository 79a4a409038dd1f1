#include "model/rope_frequencies.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/scalar_math.h"

namespace trireme {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

// theta^(-2i/n), in double.
std::vector<double> plain_frequencies(double theta, int32_t head_dim) {
  std::vector<double> out;
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    out.push_back(1.0 / portable_pow(theta, 2.0 * i / head_dim));
  }
  return out;
}

// NTK: the base grows with the served length, so that the longest wave fits it.
double dynamic_theta(const RopeConfig& rope, int32_t head_dim, int32_t context_length) {
  if (head_dim <= 2) return rope.theta;  // only one frequency, which is 1 for every base
  const double length = std::max(context_length, rope.original_max_position);
  const double stretch = rope.factor * length / rope.original_max_position - (rope.factor - 1.0);
  const double n = head_dim;
  return rope.theta * portable_pow(stretch, n / (n - 2.0));
}

void scale_llama3(const RopeConfig& rope, std::vector<double>& frequencies) {
  const double low_wavelength = rope.original_max_position / rope.low_freq_factor;
  const double high_wavelength = rope.original_max_position / rope.high_freq_factor;
  for (double& f : frequencies) {
    const double wavelength = kTwoPi / f;
    if (wavelength > low_wavelength) {
      f /= rope.factor;
    } else if (wavelength >= high_wavelength) {
      const double s = (rope.original_max_position / wavelength - rope.low_freq_factor) /
                       (rope.high_freq_factor - rope.low_freq_factor);
      f = (1.0 - s) * f / rope.factor + s * f;
    }
  }
}

// The dimension whose wave turns `turns` times over the original length.
double yarn_dimension(const RopeConfig& rope, int32_t head_dim, double turns) {
  return head_dim * portable_log(rope.original_max_position / (turns * kTwoPi)) /
         (2.0 * portable_log(rope.theta));
}

void scale_yarn(const RopeConfig& rope, int32_t head_dim, std::vector<double>& frequencies) {
  double low = yarn_dimension(rope, head_dim, rope.beta_fast);
  double high = yarn_dimension(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double f = frequencies[i];
    frequencies[i] = f / rope.factor * ramp + f * (1.0 - ramp);
  }
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * portable_log(factor) + 1.0;
}

double yarn_attention_factor(const RopeConfig& rope) {
  if (rope.attention_factor != 0.0) return rope.attention_factor;
  if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  return yarn_mscale(rope.factor, 1.0);
}

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config, int32_t context_length) {
  const RopeConfig& rope = config.rope;
  TRIREME_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0);
  TRIREME_CHECK(context_length >= 1);
  using Scaling = RopeConfig::Scaling;
  const double theta = rope.scaling == Scaling::kDynamic
                           ? dynamic_theta(rope, config.head_dim, context_length)
                           : rope.theta;
  std::vector<double> frequencies = plain_frequencies(theta, config.head_dim);
  RopeFrequencies out;
  switch (rope.scaling) {
    case Scaling::kNone:
    case Scaling::kDynamic: break;
    case Scaling::kLinear:
      for (double& f : frequencies) f /= rope.factor;
      break;
    case Scaling::kLlama3: scale_llama3(rope, frequencies); break;
    case Scaling::kYarn:
      scale_yarn(rope, config.head_dim, frequencies);
      out.scale = static_cast<float>(yarn_attention_factor(rope));
      break;
  }
  for (const double f : frequencies) out.inv_freq.push_back(static_cast<float>(f));
  return out;
}

int32_t default_context_length(const ModelConfig& config) {
  if (config.rope.scaling != RopeConfig::Scaling::kDynamic) return config.max_position;
  constexpr double kLongest = 1 << 30;
  return static_cast<int32_t>(
      std::min(std::floor(config.max_position * config.rope.factor), kLongest));
}

}  // namespace trireme
