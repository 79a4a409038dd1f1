#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "coordinator/serving/drafter.h"
#include "coordinator/serving/inference_service.h"
#include "coordinator/serving/prefix_cache.h"

namespace trireme {

// What a step computed.
enum class StepPhase : uint8_t { kPrefill, kDecode, kMixed };

// What the metrics want to know, as it happens. Called on the service's thread; must not block.
// Members left empty are skipped. Times in seconds.
struct ServingObserver {
  // Submit to the first plan that holds a token of the request.
  std::function<void(double seconds)> on_queue_time;
  // First plan to first token.
  std::function<void(double seconds)> on_prefill_time;
  // First to last token, once a request has ended with at least one.
  std::function<void(double seconds)> on_decode_time;
  // Submit to first token. With on_inter_token: one call for every token generated.
  std::function<void(double seconds)> on_first_token;
  std::function<void(double seconds)> on_inter_token;
  std::function<void(double e2e_seconds, int32_t n_prompt_tokens, int32_t n_output_tokens,
                     FinishReason reason)>
      on_finished;
  // One step was answered; n_tokens as planned.
  std::function<void(int32_t n_tokens)> on_iteration;
  // With it: the time by which it held up the steps behind it (StepTimes).
  std::function<void(StepPhase phase, double seconds)> on_step;
  std::function<void()> on_preemption;
  // What was added since the last call.
  std::function<void(const PrefixCacheCounts& more)> on_prefix_cache;
  std::function<void(const GuessCounts& more)> on_guesses;
  std::function<void(const std::string& cause)> on_group_lost;
  // So many requests must be computed again because their group was lost.
  std::function<void(int32_t n_requests)> on_replayed;
};

}  // namespace trireme
