#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/http/endpoints.h"
#include "coordinator/http/pooling_kind.h"

// Private to coordinator/http: includes the JSON library.

namespace trireme {

// One request for numbers, from its first input's submission to its answer. A window of its inputs
// is in the service at a time, so that one request does not fill the queue. Events are only queued
// on the service's thread.
class PoolingJob : public std::enable_shared_from_this<PoolingJob> {
 public:
  struct Parts {
    std::shared_ptr<ApiContext> context;
    const PoolingKind* kind = nullptr;
    HttpRequest request;  // as it came, to be begun again after a handover
    ResponderPtr responder;
    std::shared_ptr<void> numbers;  // of ApiContext::numbers
    KeyAccounts::Lease key_lease;   // until all is computed
  };

  PoolingJob(PoolingCall call, Parts parts);
  void start();

  // For a handover, while no task of it runs. None: it has ended, or nobody waits for it.
  std::optional<PoolingState> state();

 private:
  void submit_some();
  bool submit(size_t index);
  void on_event(size_t index, GenerateEvent&& event);
  void finish();
  void fail(const ApiError& error);
  void cancel_all();

  Parts parts_;  // mutex_ guards its key_lease; the rest stays as it is
  const std::shared_ptr<const ServedWeights> weights_;  // of all its vectors

  std::mutex mutex_;  // guards all below; held by tasks of the handler threads
  PoolingCall call_;
  Vectors vectors_;                   // [n_inputs], empty until computed
  std::vector<RequestId> in_flight_;  // [n_inputs], 0: not
  size_t n_submitted_ = 0;
  size_t n_done_ = 0;
  bool ended_ = false;
};

}  // namespace trireme
