#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/serving/token_guide.h"
#include "kernels/result.h"

namespace trireme {

using RequestId = uint64_t;

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

// The weights that a request is answered with, all of its choices alike. The ranks keep them as
// long as anybody holds this.
struct ServedWeights {
  uint64_t generation = 0;  // WeightsFile::generation
  std::string id;           // tells them from all others: the fingerprint as text
  // Ids of those that this server served before: the same text layer reads their answers. The last
  // few dozens.
  std::vector<std::string> before;
};

// ServedWeights::id of a packed file.
std::string weights_id(uint64_t fingerprint);

// One sequence to generate. Token ids only: text, templates and stop strings are the caller's.
struct GenerateRequest {
  std::vector<int32_t> prompt_ids;  // at least one
  SamplingParams sampling;
  int32_t max_new_tokens = 16;          // 0: only evaluate the prompt
  std::vector<int32_t> stop_token_ids;  // generation ends with one of them (it is reported)
  bool ignore_eos = false;
  uint32_t model_id = 0;
  uint32_t adapter_id = 0;
  uint32_t choice = 0;
  bool want_prompt_logprobs = false;  // log p of each next prompt token
  bool want_last_logits = false;      // logits after the last prompt token
  bool trace = false;                 // operator hashes of every rank (trireme diff)
  int32_t n_logprobs = 0;
  // An answer begun earlier: its tokens so far, fewer than max_new_tokens and none that ended it,
  // and the numerics of the group that drew them. Only a group with the same ones goes on, with the
  // token after them.
  std::vector<int32_t> output_ids;
  std::string numerics_id;
  std::shared_ptr<const ServedWeights> weights;  // null: those of new requests
  std::shared_ptr<const LogitRules> rules;       // null: none; ids of the vocabulary
  int32_t n_prompt_logprobs = 0;  // most likely tokens to tell with each of the prompt's logprobs
  int32_t priority = 0;           // lower ones are served first
  std::string tenant;             // among equals, tenants share alike (FairQueue)
  std::string cache_salt;         // requests with the same one share the KV of equal prefixes
  // The output obeys it, and ends where it ends, ignore_eos or not. A service without a GuideMaker
  // ends such requests with an error.
  Grammar grammar;
  // In place of tokens, with max_new_tokens 0: the hidden state after the last prompt token.
  bool want_embedding = false;
};

// One thing that happened to a request, in order: any number of events with tokens, then exactly
// one with finish != kNone.
struct GenerateEvent {
  std::vector<int32_t> token_ids;  // new tokens, the stop token included
  std::vector<float> logprobs;     // as long as token_ids
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  std::vector<float> prompt_logprobs;                          // once, [n_prompt - 1]
  std::vector<std::vector<TokenLogprob>> prompt_top_logprobs;  // with them, when wanted
  std::vector<float> last_logits;                              // once, [vocab_size]
  std::vector<StepResult> traces;                              // one per rank and step
  FinishReason finish = FinishReason::kNone;
  std::string error;        // when kError or kCancelled
  bool own_fault = false;   // when kError: the request's, by its grammar
  std::string numerics_id;  // of the group that drew the tokens; with the request's first event
  int32_t n_prompt_tokens = 0;
  int32_t n_output_tokens = 0;
  // Prompt tokens whose KV was there when the request began: the same in all its events.
  int32_t n_cached_tokens = 0;
  // How many tokens were guessed before they were drawn, of those that this event tells of and of
  // wrong guesses beside them.
  int32_t n_guessed = 0;
  int32_t n_guessed_right = 0;
  // With want_embedding and finish == kStop: after the model's final norm. [hidden_size]
  std::vector<float> embedding;
};

// Whether there are ranks (docs/sleep.md).
enum class SleepPhase : uint8_t {
  kAwake,
  kSettling,  // requests that run are waited for; new ones are refused
  kAsleep,    // the ranks have ended, or are told to
  kWaking,    // they are being started; new requests wait for them
};

// What becomes of the requests that live when the service is put to sleep.
enum class SleepMode : uint8_t {
  kAbort,  // they end at once
  kWait,   // they end first; where they take too long, the service stays awake
  kKeep,   // they go on when it wakes up
};

// What the service is and does now; for /health, /ready, /v1/models and the banner.
struct ServiceStatus {
  bool ready = false;  // a group is serving and new requests are accepted
  bool alive = true;   // false: no group can ever answer (breaker open)
  bool draining = false;
  SleepPhase sleep = SleepPhase::kAwake;
  int n_running = 0;
  int n_waiting = 0;
  double kv_usage = 0.0;  // by running sequences, 0..1
  int32_t n_kv_blocks = 0;
  int32_t n_running_kv_blocks = 0;  // that running sequences hold
  int32_t n_free_kv_blocks = 0;     // that hold nothing; the rest holds what can be used again
  int32_t context_length = 0;
  int32_t vocab_size = 0;
  std::string problem;  // when not ready, why
};

// Generates tokens on whatever groups there are. Thread-safe; events arrive on the service's own
// thread and must not block it. Ids are never reused.
class InferenceService {
 public:
  using EventHandler = std::function<void(GenerateEvent&&)>;

  virtual ~InferenceService() = default;
  // Refuses (Error) what can never be served, or when the queue is full (param "queue"), the
  // service drains (param "draining") or sleeps (param "sleeping").
  virtual Result<RequestId> submit(GenerateRequest request, EventHandler on_event) = 0;
  // No event after this returns on the service's thread; blocks are freed at the next step. The
  // metrics count the request as `counted_as`: kStop when its text came to a stop string, else
  // kCancelled.
  virtual void cancel(RequestId id, FinishReason counted_as) = 0;
  virtual ServiceStatus status() const = 0;
  // Those of new requests.
  virtual std::shared_ptr<const ServedWeights> weights() const = 0;

  // Called once, on the service's thread; must not block. `failure`: why it was not done, one line.
  using SleepHandler = std::function<void(const std::string& failure)>;
  // Ends all ranks, with all their memory. Its end is that of the last one.
  virtual void sleep(SleepMode mode, SleepHandler on_end) = 0;
  // Starts them again. Its end: they serve. At once when the service is awake.
  virtual void wake_up(SleepHandler on_end) = 0;
};

}  // namespace trireme
