#include "coordinator/http/beam_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/check.h"

namespace trireme {
namespace {

struct Candidate {
  size_t beam = 0;
  TokenLogprob token;
  double sum = 0;
};

BeamSearch::Beam extended(const BeamSearch::Beam& beam, const Candidate& by,
                          const std::vector<TokenLogprob>& top) {
  BeamSearch::Beam longer = beam;
  longer.token_ids.push_back(by.token.token_id);
  longer.logprobs.push_back(by.token.logprob);
  longer.top_logprobs.push_back(top);
  longer.sum = by.sum;
  return longer;
}

}  // namespace

BeamSearch::BeamSearch(Options options) : options_(std::move(options)), live_(1) {
  TRIREME_CHECK(options_.width > 0 && options_.n_prompt > 0 && options_.max_new_tokens >= 0);
}

void BeamSearch::advance(const std::vector<std::vector<TokenLogprob>>& next) {
  TRIREME_CHECK(!done() && next.size() == live_.size());
  ++n_steps_;
  const std::vector<int32_t>& ends = options_.end_token_ids;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < live_.size(); ++i) {
    for (const TokenLogprob& token : next[i]) {
      const Candidate candidate{
          .beam = i, .token = token, .sum = live_[i].sum + static_cast<double>(token.logprob)};
      if (std::find(ends.begin(), ends.end(), token.token_id) == ends.end()) {
        candidates.push_back(candidate);
      } else {
        ended_.push_back(extended(live_[i], candidate, next[i]));
        ended_.back().ended = true;
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.sum > b.sum; });
  candidates.resize(std::min(candidates.size(), static_cast<size_t>(options_.width)));
  std::vector<Beam> longer;
  for (const Candidate& candidate : candidates)
    longer.push_back(extended(live_[candidate.beam], candidate, next[candidate.beam]));
  live_ = std::move(longer);
}

double BeamSearch::score(const Beam& beam) const {
  const size_t n_ends = beam.ended ? 1 : 0;
  const auto length =
      static_cast<double>(options_.n_prompt) + static_cast<double>(beam.token_ids.size() - n_ends);
  return beam.sum / std::pow(length, static_cast<double>(options_.length_penalty));
}

std::vector<BeamSearch::Beam> BeamSearch::best() const {
  std::vector<Beam> all = ended_;
  all.insert(all.end(), live_.begin(), live_.end());
  std::stable_sort(all.begin(), all.end(),
                   [this](const Beam& a, const Beam& b) { return score(a) > score(b); });
  if (all.size() > static_cast<size_t>(options_.width))
    all.resize(static_cast<size_t>(options_.width));
  return all;
}

}  // namespace trireme
