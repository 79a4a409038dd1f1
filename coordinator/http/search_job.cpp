// A generation job with a beam search: its choices are the beams that a search over one-token
// requests finds, and hear of all their tokens at once.

#include <algorithm>
#include <utility>

#include "coordinator/http/generation_job.h"

namespace trireme {

void GenerationJob::start_searches() {
  auto weights = std::exchange(parts_.weights, nullptr);
  if (weights == nullptr) weights = parts_.service.weights();
  for (size_t i = 0; i < call_.prompts.size(); ++i) {
    const int first = static_cast<int>(i) * call_.n;
    if (choices_[first].done || ended_) continue;
    Search& search = searches_[i];
    search.weights = weights;
    search.beams.emplace(
        BeamSearch::Options{.width = call_.n,
                            .n_prompt = static_cast<int32_t>(call_.prompts[i].ids.size()),
                            .max_new_tokens = call_.max_new_tokens,
                            .length_penalty = call_.length_penalty,
                            .end_token_ids = call_.search_end_ids,
                            .n_told = std::max(call_.n_logprobs, 0)});
    submit_beams(i);
  }
}

// One more token for each beam; with max_tokens 0, the prompt alone.
void GenerationJob::submit_beams(size_t prompt) {
  Search& search = searches_[prompt];
  const std::vector<BeamSearch::Beam>& live = search.beams->live();
  search.next.assign(live.size(), {});
  search.requests.assign(live.size(), 0);
  search.n_open = live.size();
  for (size_t i = 0; i < live.size(); ++i) {
    const bool first = live[i].token_ids.empty();
    GenerateRequest request = make_request(static_cast<int>(prompt) * call_.n);
    request.sampling = {};
    request.max_new_tokens =
        search.beams->done() ? 0 : static_cast<int32_t>(live[i].token_ids.size()) + 1;
    request.ignore_eos = true;
    request.stop_token_ids.clear();
    request.want_prompt_logprobs &= first;
    request.n_logprobs = search.beams->n_candidates();
    request.output_ids = live[i].token_ids;
    request.numerics_id = first ? "" : search.told.numerics_id;
    request.weights = search.weights;
    const Result<RequestId> id = parts_.service.submit(
        std::move(request), [self = shared_from_this(), prompt, i](GenerateEvent&& event) {
          self->post([job = self.get(), prompt, i, event = std::move(event)]() mutable {
            job->on_beam(prompt, i, std::move(event));
          });
        });
    if (!id) return fail(parts_.refusal(id.error()));
    search.requests[i] = *id;
  }
}

void GenerationJob::on_beam(size_t prompt, size_t beam, GenerateEvent event) {
  if (ended_ || abandoned_ || failed(event)) return;
  Search& search = searches_[prompt];
  if (!event.numerics_id.empty()) search.told.numerics_id = event.numerics_id;
  if (search.beams->live()[beam].token_ids.empty())
    search.told.n_cached_tokens = event.n_cached_tokens;
  if (!event.prompt_logprobs.empty()) {
    search.told.prompt_logprobs = std::move(event.prompt_logprobs);
    search.told.prompt_top_logprobs = std::move(event.prompt_top_logprobs);
  }
  if (!event.top_logprobs.empty()) search.next[beam] = std::move(event.top_logprobs.front());
  if (event.finish == FinishReason::kNone) return;
  search.requests[beam] = 0;
  if (--search.n_open > 0) return;
  if (!search.beams->done()) search.beams->advance(search.next);
  search.beams->done() ? tell_beams(prompt) : submit_beams(prompt);
}

void GenerationJob::tell_beams(size_t prompt) {
  Search search = std::exchange(searches_[prompt], {});
  std::vector<BeamSearch::Beam> best = search.beams->best();
  best.resize(static_cast<size_t>(call_.n));  // a small vocabulary has fewer
  for (size_t i = 0; i < best.size(); ++i) {
    BeamSearch::Beam& beam = best[i];
    GenerateEvent event = search.told;
    event.finish = beam.ended ? FinishReason::kStop : FinishReason::kLength;
    event.token_ids = std::move(beam.token_ids);
    event.logprobs = std::move(beam.logprobs);
    event.top_logprobs = std::move(beam.top_logprobs);
    on_event(static_cast<int>(prompt) * call_.n + static_cast<int>(i), std::move(event));
  }
}

void GenerationJob::cancel_searches() {
  for (Search& search : searches_) {
    for (const RequestId id : std::exchange(search.requests, {})) {
      if (id != 0) parts_.service.cancel(id, FinishReason::kCancelled);
    }
  }
}

}  // namespace trireme
