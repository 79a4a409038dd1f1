#include "coordinator/journal/choice_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/check.h"

namespace trireme {
namespace {

template <typename T>
void append_moved(std::vector<T>& to, std::vector<T>&& from) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
}

template <typename T>
std::vector<T> from_index(const std::vector<T>& values, size_t begin) {
  const auto offset = static_cast<std::ptrdiff_t>(std::min(begin, values.size()));
  return {values.begin() + offset, values.end()};
}

}  // namespace

void append_event(ChoiceLog& log, const GenerateEvent& event, bool with_logprobs) {
  if (!event.numerics_id.empty()) log.numerics_id = event.numerics_id;
  if (log.empty()) log.n_cached_tokens = event.n_cached_tokens;
  if (!event.prompt_logprobs.empty()) {
    log.prompt_logprobs = event.prompt_logprobs;
    log.prompt_top_logprobs = event.prompt_top_logprobs;
  }
  log.token_ids.insert(log.token_ids.end(), event.token_ids.begin(), event.token_ids.end());
  if (with_logprobs) {
    TRIREME_CHECK(event.logprobs.size() == event.token_ids.size());
    log.logprobs.insert(log.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    log.top_logprobs.insert(log.top_logprobs.end(), event.top_logprobs.begin(),
                            event.top_logprobs.end());
    log.top_logprobs.resize(log.token_ids.size());
  }
  log.finish = event.finish;
  log.n_guessed += event.n_guessed;
  log.n_guessed_right += event.n_guessed_right;
}

ChoiceLog tail_of(const ChoiceLog& log, size_t begin) {
  ChoiceLog tail;
  tail.token_ids = from_index(log.token_ids, begin);
  tail.logprobs = from_index(log.logprobs, begin);
  tail.top_logprobs = from_index(log.top_logprobs, begin);
  tail.finish = log.finish;
  if (begin > 0) return tail;
  tail.prompt_logprobs = log.prompt_logprobs;
  tail.prompt_top_logprobs = log.prompt_top_logprobs;
  tail.numerics_id = log.numerics_id;
  tail.n_cached_tokens = log.n_cached_tokens;
  return tail;
}

void append_tail(ChoiceLog& log, ChoiceLog tail) {
  if (log.numerics_id.empty()) log.numerics_id = std::move(tail.numerics_id);
  if (log.empty()) log.n_cached_tokens = tail.n_cached_tokens;
  append_moved(log.prompt_logprobs, std::move(tail.prompt_logprobs));
  append_moved(log.prompt_top_logprobs, std::move(tail.prompt_top_logprobs));
  append_moved(log.token_ids, std::move(tail.token_ids));
  append_moved(log.logprobs, std::move(tail.logprobs));
  append_moved(log.top_logprobs, std::move(tail.top_logprobs));
  log.finish = tail.finish;
}

size_t n_events(const ChoiceLog& log) {
  return std::max<size_t>(log.n_tokens(), log.finish == FinishReason::kNone ? 0 : 1);
}

GenerateEvent event_at(const ChoiceLog& log, size_t i) {
  TRIREME_CHECK(i < n_events(log));
  GenerateEvent event;
  event.n_cached_tokens = log.n_cached_tokens;
  if (i == 0) {
    event.prompt_logprobs = log.prompt_logprobs;
    event.prompt_top_logprobs = log.prompt_top_logprobs;
    event.n_guessed = log.n_guessed;
    event.n_guessed_right = log.n_guessed_right;
  }
  if (i < log.token_ids.size()) event.token_ids.push_back(log.token_ids[i]);
  if (i < log.logprobs.size()) event.logprobs.push_back(log.logprobs[i]);
  if (i < log.top_logprobs.size()) event.top_logprobs.push_back(log.top_logprobs[i]);
  if (i + 1 == n_events(log)) event.finish = log.finish;
  return event;
}

}  // namespace trireme
