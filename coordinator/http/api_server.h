#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coordinator/http/http_server.h"
#include "coordinator/http/metrics.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/journal/journal.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

struct ApiState;
class BatchStore;

struct ApiServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free port
  int n_handler_threads = 2;
  HttpLimits limits;
  HttpAccess access;
  std::function<void(const HttpRequest& request)> on_request;  // as of HttpServerOptions
  Journal* journal = nullptr;                // null: a request ends with its client's connection
  int32_t journal_grace_s = 30;              // for a client to come back; with a journal
  std::shared_ptr<const GuideMaker> guides;  // the service's; null: grammars are refused
  BatchStore* batches = nullptr;             // null: no files and batches
  int32_t n_slots = 1;      // sequences that the service computes at once; for batches
  bool sleep_mode = false;  // with /sleep and /wake_up
};

// The OpenAI-compatible API of one model over HTTP. All arguments must outlive it.
class ApiServer {
 public:
  ApiServer(InferenceService& service, const TextCodec& codec, ModelInfo model, Metrics& metrics,
            ApiServerOptions options);
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // Listens and serves. Throws EnvironmentError when the port cannot be had.
  void start();
  uint16_t port() const;

  // For requests and connections that begin from now on. Not from TLS to none or back.
  void set_access(HttpAccess access);
  // From now on generation is refused with 503 and /ready says so; running answers go on.
  void begin_drain();
  // begin_drain(), then waits until every answer is out. False: some were not after `timeout_ms`.
  bool drain(int timeout_ms);
  // ---- a handover to another program in this process (coordinator/handover) ----
  // No connection or request is taken any more; waits for requests that are half read, up to the
  // deadline, and refuses the rest. Connections under TLS are closed after their answers.
  void hold_new_work(std::chrono::milliseconds deadline);
  int n_connections();
  // While the service makes no plans: waits until every event has reached its client's connection.
  // `service_settles` waits for what the service was asked. False: not in time.
  bool settle(std::chrono::steady_clock::time_point deadline,
              const std::function<void()>& service_settles);
  // No byte is read or written any more.
  void hold_all();
  // After settle() following hold_all().
  ApiState state();
  void go_on();
  // Instead of start(): the connections and answers of another server. Nothing moves before
  // go_on(). `listen` has the service tell a request's events to a handler.
  void take_over(const ApiState& state,
                 const std::function<bool(RequestId, InferenceService::EventHandler)>& listen);

  // Closes every connection, cancels what runs for them, ends the threads. Idempotent.
  void stop();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
