#include "coordinator/http/beam_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/check.h"

namespace trireme {

struct BeamSearch::Candidate {
  size_t beam = 0;
  TokenLogprob token;
  double sum = 0;
};

BeamSearch::BeamSearch(Options options) : options_(std::move(options)), live_(1) {
  TRIREME_CHECK(options_.width > 0 && options_.n_prompt > 0 && options_.max_new_tokens >= 0);
}

BeamSearch::Beam BeamSearch::extended(const Candidate& by,
                                      const std::vector<TokenLogprob>& top) const {
  Beam longer = live_[by.beam];
  longer.token_ids.push_back(by.token.token_id);
  longer.logprobs.push_back(by.token.logprob);
  const size_t n_told = std::min(top.size(), static_cast<size_t>(options_.n_told));
  longer.top_logprobs.emplace_back(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(n_told));
  longer.sum = by.sum;
  return longer;
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
        ended_.push_back(extended(candidate, next[i]));
        ended_.back().ended = true;
      }
    }
  }
  keep_best(&ended_);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.sum > b.sum; });
  candidates.resize(std::min(candidates.size(), static_cast<size_t>(options_.width)));
  std::vector<Beam> longer;
  for (const Candidate& candidate : candidates)
    longer.push_back(extended(candidate, next[candidate.beam]));
  live_ = std::move(longer);
}

double BeamSearch::score(const Beam& beam) const {
  const size_t n_ends = beam.ended ? 1 : 0;
  const auto length =
      static_cast<double>(options_.n_prompt) + static_cast<double>(beam.token_ids.size() - n_ends);
  return beam.sum / std::pow(length, static_cast<double>(options_.length_penalty));
}

void BeamSearch::keep_best(std::vector<Beam>* beams) const {
  std::stable_sort(beams->begin(), beams->end(),
                   [this](const Beam& a, const Beam& b) { return score(a) > score(b); });
  if (beams->size() > static_cast<size_t>(options_.width))
    beams->resize(static_cast<size_t>(options_.width));
}

std::vector<BeamSearch::Beam> BeamSearch::best() const {
  std::vector<Beam> all = ended_;
  all.insert(all.end(), live_.begin(), live_.end());
  keep_best(&all);
  return all;
}

}  // namespace trireme
