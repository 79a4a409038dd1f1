#include "worker/sampler.h"

#include <algorithm>
#include <numeric>

#include "worker/philox.h"

namespace trireme {
namespace {

constexpr int32_t kFirstCandidates = 256;
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
  return n - 1;  // rounding left the target at the very end
}

}  // namespace

Sampler::Sampler(const KernelTable& kernels, int32_t vocab_size)
    : kernels_(kernels),
      weights_(static_cast<size_t>(vocab_size)),
      order_(static_cast<size_t>(vocab_size)) {
  TRIREME_CHECK(vocab_size > 0);
}

int32_t Sampler::argmax(std::span<const float> logits) {
  int32_t best = 0;
  for (int32_t i = 1; i < static_cast<int32_t>(logits.size()); ++i) {
    if (logits[static_cast<size_t>(i)] > logits[static_cast<size_t>(best)]) best = i;
  }
  return best;
}

void Sampler::partial_order(std::span<const float> logits, int32_t n) {
  std::iota(order_.begin(), order_.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  if (n < static_cast<int32_t>(order_.size())) {
    std::nth_element(order_.begin(), order_.begin() + n, order_.end(), before);
  }
  std::sort(order_.begin(), order_.begin() + n, before);
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
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    return draw(vocab, total, noise, [&](int32_t i) { return weights_[static_cast<size_t>(i)]; });
  }

  const auto weight_at = [&](int32_t i) {
    return weights_[static_cast<size_t>(order_[static_cast<size_t>(i)])];
  };
  const int32_t limit = cut_k ? params.top_k : vocab;
  double mass = 0;  // of the tokens that top_p is taken of
  if (cut_k) {
    partial_order(logits, limit);
    for (int32_t i = 0; i < limit; ++i) mass += static_cast<double>(weight_at(i));
  } else {
    mass = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  }
  // Few tokens hold most of the mass: order a few, and more only when they do not suffice.
  for (int32_t n = std::min(kFirstCandidates, limit);; n = std::min(n * 8, limit)) {
    if (!cut_k) partial_order(logits, n);
    double kept = 0;
    for (int32_t i = 0; i < n; ++i) {
      kept += static_cast<double>(weight_at(i));
      if (kept >= static_cast<double>(params.top_p) * mass || i + 1 == limit) {
        return order_[static_cast<size_t>(draw(i + 1, kept, noise, weight_at))];
      }
    }
  }
}

void Sampler::top_tokens(std::span<const float> logits, float log_sum_exp, int32_t n,
                         std::vector<TokenLogprob>& out) {
  const int32_t count = std::min(n, static_cast<int32_t>(logits.size()));
  out.clear();
  if (count <= 0) return;
  partial_order(logits, count);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = order_[static_cast<size_t>(i)];
    out.push_back({id, logits[static_cast<size_t>(id)] - log_sum_exp});
  }
}

}  // namespace trireme
