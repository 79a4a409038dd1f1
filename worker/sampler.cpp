#include "worker/sampler.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

#include "worker/philox.h"

namespace trireme {
namespace {

// Candidates reach this far below the largest logit, in units of the temperature, and each time
// this much further when they do not suffice: e^-8 of its likelihood.
constexpr float kCandidateDepth = 8.0F;
constexpr float kDeepest = 1000.0F;  // below this, all of them
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-4F;  // temperatures that no float32 softmax can use

// Index in [0, weights.size()) at which the running sum first passes noise * total. Sums run in
// double, in order.
template <typename WeightAt>
int32_t draw(int32_t n, double total, double noise, const WeightAt& weight_at) {
  const double target = noise * total;
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) {
    sum += static_cast<double>(weight_at(i));
    if (sum > target) return i;
  }
  // Rounding left the target at the very end: the last that may be drawn at all.
  while (n > 1 && weight_at(n - 1) == 0.0F) --n;
  return n - 1;
}

// In a fixed order that leaves the compiler eight sums at a time.
double sum_of(const std::vector<float>& values) {
  constexpr size_t kLanes = 8;
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(values[i + j]);
  }
  for (size_t j = 0; i < values.size(); ++i, ++j) lanes[j] += static_cast<double>(values[i]);
  return std::accumulate(std::begin(lanes), std::end(lanes), 0.0);
}

}  // namespace

Sampler::Sampler(const KernelTable& kernels, int32_t vocab_size)
    : kernels_(kernels),
      weights_(static_cast<size_t>(vocab_size)),
      masked_(static_cast<size_t>(vocab_size)),
      order_(static_cast<size_t>(vocab_size)) {
  TRIREME_CHECK(vocab_size > 0);
}

int32_t Sampler::argmax(std::span<const float> logits) const {
  int32_t best = 0;
  kernels_.argmax({}, make_tensor(&best, DType::kI32, {1}),
                  make_tensor(const_cast<float*>(logits.data()), DType::kF32,
                              {1, static_cast<int64_t>(logits.size())}));
  return best;
}

int32_t Sampler::order_candidates(std::span<const float> logits, float least) {
  int32_t n = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(logits.size()); ++i) {
    order_[static_cast<size_t>(n)] = i;
    n += logits[static_cast<size_t>(i)] >= least ? 1 : 0;
  }
  std::sort(order_.begin(), order_.begin() + n, [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  return n;
}

int32_t Sampler::order_at_least(std::span<const float> logits, int32_t n, float largest,
                                float depth) {
  const auto vocab = static_cast<int32_t>(logits.size());
  for (;; depth *= 2.0F) {
    const float least = depth < kDeepest ? largest - depth : -kInfinity;
    const int32_t found = order_candidates(logits, least);
    if (found >= n || found == vocab || least == -kInfinity) return found;
  }
}

int32_t Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                        uint32_t choice, uint32_t output_index) {
  TRIREME_CHECK(logits.size() == weights_.size());
  const auto vocab = static_cast<int32_t>(logits.size());
  const int32_t best = argmax(logits);
  if (params.temperature < kGreedyBelow || params.top_k == 1) return best;
  kernels_.scaled_exp({}, make_tensor(weights_.data(), DType::kF32, {vocab}),
                      make_tensor(const_cast<float*>(logits.data()), DType::kF32, {vocab}),
                      logits[static_cast<size_t>(best)], 1.0F / params.temperature);
  const double noise = sampling_noise(params.seed, choice, output_index);
  const bool cut_k = params.top_k > 0 && params.top_k < vocab;
  if (!cut_k && params.top_p >= 1.0F) {
    const double total = sum_of(weights_);
    if (total == 0) return best;  // infinite, or nothing below it is a number
    return draw(vocab, total, noise, [&](int32_t i) { return weights_[static_cast<size_t>(i)]; });
  }

  const auto weight_at = [&](int32_t i) {
    return weights_[static_cast<size_t>(order_[static_cast<size_t>(i)])];
  };
  const float largest = logits[static_cast<size_t>(best)];
  float depth = kCandidateDepth * params.temperature;
  double mass = 0;  // of the tokens that top_p is taken of
  int32_t limit = vocab;
  int32_t n = 0;
  if (cut_k) {
    n = order_at_least(logits, params.top_k, largest, depth);
    limit = std::min(n, params.top_k);
    for (int32_t i = 0; i < limit; ++i) mass += static_cast<double>(weight_at(i));
  } else {
    mass = sum_of(weights_);
    n = order_at_least(logits, 1, largest, depth);
  }
  if (n == 0) return best;  // no logit is a number
  // Few tokens hold most of the mass: order a few, and more only when they do not suffice.
  for (;;) {
    double kept = 0;
    for (int32_t i = 0; i < std::min(n, limit); ++i) {
      kept += static_cast<double>(weight_at(i));
      if (kept >= static_cast<double>(params.top_p) * mass || i + 1 == limit) {
        return order_[static_cast<size_t>(draw(i + 1, kept, noise, weight_at))];
      }
    }
    depth *= 2.0F;
    n = order_at_least(logits, n + 1, largest, depth);
    // What is left is not a number: nothing below the largest can be drawn.
    if (n < limit && depth >= kDeepest) limit = n;
  }
}

int32_t Sampler::sample_masked(std::span<const float> logits, std::span<const uint32_t> mask,
                               const SamplingParams& params, uint32_t choice,
                               uint32_t output_index) {
  TRIREME_CHECK(logits.size() == masked_.size() && mask.size() * 32 >= logits.size());
  const auto allows = [mask](size_t id) { return ((mask[id / 32] >> (id % 32)) & 1U) != 0; };
  size_t lowest = logits.size();
  for (size_t i = logits.size(); i-- > 0;) {
    const bool allowed = allows(i);
    masked_[i] = allowed ? logits[i] : -kInfinity;
    if (allowed) lowest = i;
  }
  TRIREME_CHECK_MSG(lowest < logits.size(), "a mask without a token");
  const int32_t token = sample(masked_, params, choice, output_index);
  // Where no logit of the mask is a number, the choice is free: but never to leave the mask.
  return allows(static_cast<size_t>(token)) ? token : static_cast<int32_t>(lowest);
}

void Sampler::top_tokens(std::span<const float> logits, float log_sum_exp, int32_t n,
                         std::vector<TokenLogprob>& out) {
  const int32_t count = std::min(n, static_cast<int32_t>(logits.size()));
  out.clear();
  if (count <= 0) return;
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  const int32_t found = order_at_least(logits, count, largest, kCandidateDepth);
  for (int32_t i = 0; i < std::min(count, found); ++i) {
    const int32_t id = order_[static_cast<size_t>(i)];
    out.push_back({id, logits[static_cast<size_t>(id)] - log_sum_exp});
  }
}

}  // namespace trireme
