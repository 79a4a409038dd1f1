#include "coordinator/http/api_server.h"

#include <chrono>
#include <thread>

#include "coordinator/batch/batch_service.h"
#include "coordinator/handover/api_state.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/pooling_job.h"

namespace trireme {

std::vector<Route> all_routes(const std::shared_ptr<ApiContext>& context) {
  std::vector<Route> routes;
  for (auto make : {generation_routes, infer_routes, pooling_routes, answer_routes, tokenize_routes,
                    batch_routes, status_routes, sleep_routes}) {
    std::vector<Route> some = make(context);
    std::move(some.begin(), some.end(), std::back_inserter(routes));
  }
  return routes;
}

namespace {

std::shared_ptr<ApiContext> make_context(InferenceService& service, const TextCodec& codec,
                                         ModelInfo model, Metrics& metrics,
                                         const ApiServerOptions& options,
                                         const std::shared_ptr<TaskPool>& pool,
                                         const std::shared_ptr<AnswerKeeper>& keeper) {
  auto context = std::make_shared<ApiContext>(service, codec, metrics, std::move(model), pool,
                                              keeper, options.guides);
  context->sleep_mode = options.sleep_mode;
  return context;
}

std::unique_ptr<BatchService> make_batches(const std::shared_ptr<ApiContext>& context,
                                           const ApiServerOptions& options) {
  if (options.batches == nullptr) return nullptr;
  auto batches = std::make_unique<BatchService>(*options.batches, context, options.n_slots);
  context->batches = batches.get();
  return batches;
}

std::shared_ptr<AnswerKeeper> make_keeper(const ApiServerOptions& options) {
  if (options.journal == nullptr) return nullptr;
  return std::make_shared<AnswerKeeper>(
      *options.journal,
      AnswerKeeper::Options{.grace_s = options.journal_grace_s,
                            .max_rest_bytes = options.limits.max_outgoing_bytes / 2});
}

}  // namespace

class ApiServer::State {
 public:
  State(InferenceService& service, const TextCodec& codec, ModelInfo model, Metrics& metrics,
        const ApiServerOptions& options)
      : pool_(std::make_shared<TaskPool>(options.n_handler_threads)),
        keeper_(make_keeper(options)),
        context_(make_context(service, codec, std::move(model), metrics, options, pool_, keeper_)),
        batches_(make_batches(context_, options)),
        server_(
            {.host = options.host,
             .port = options.port,
             .limits = options.limits,
             .access = options.access,
             .on_request = options.on_request,
             .on_response = [&metrics](const std::string& route,
                                       int status) { metrics.count_http_response(route, status); }},
            all_routes(context_), pool_) {
    context_->keys.set_keys(options.access.keys);
  }

  void start() {
    resume_answers(context_);
    server_.start();
    if (batches_) batches_->start();
  }
  uint16_t port() const { return server_.port(); }
  void set_access(HttpAccess access) {
    context_->keys.set_keys(access.keys);
    server_.set_access(std::move(access));
  }
  void begin_drain() {
    context_->draining = true;
    if (batches_) batches_->stop();  // what is left goes on with the next server
  }

  bool drain(int timeout_ms) {
    constexpr auto kPoll = std::chrono::milliseconds(10);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    begin_drain();
    while (server_.n_active_requests() > 0) {
      if (std::chrono::steady_clock::now() >= deadline) return false;
      std::this_thread::sleep_for(kPoll);
    }
    return true;
  }

  // ---- a handover ----

  HttpServer& server() { return server_; }

  // Batches end here as they would for a kill, and go on from what is written.
  void hold_new_work(std::chrono::milliseconds deadline) {
    if (batches_) batches_->stop();
    server_.hold_new_work(deadline);
  }

  void go_on() {
    server_.go_on();
    if (batches_) batches_->start();
  }

  // Handlers, the service, the journal and connections give each other work: until none has any.
  bool settle(std::chrono::steady_clock::time_point deadline,
              const std::function<void()>& service_settles) {
    uint64_t n_before = 0;
    uint64_t n_after = 0;
    if (!pool_->wait_idle(deadline, &n_after)) return false;
    do {
      n_before = n_after;
      service_settles();
      if (keeper_ && !keeper_->journal().flush(deadline)) return false;
      if (!pool_->wait_idle(deadline, &n_after)) return false;
      server_.on_server([] {});
      service_settles();
      if (!pool_->wait_idle(deadline, &n_after)) return false;
    } while (n_after != n_before);
    return true;
  }

  ApiState state() {
    ApiState state{.listener = server_.listener(),
                   .connections = server_.connections(),
                   .answers = {},
                   .pooling = {}};
    for (const std::shared_ptr<GenerationJob>& job : context_->jobs.all()) {
      if (std::optional<AnswerState> answer = job->state())
        state.answers.push_back(*std::move(answer));
    }
    for (const std::shared_ptr<PoolingJob>& job : context_->pooling_jobs.all()) {
      if (std::optional<PoolingState> request = job->state())
        state.pooling.push_back(*std::move(request));
    }
    return state;
  }

  void take_over(const ApiState& state, const GenerationJob::Listen& listen) {
    const auto responders = server_.take_over(state.listener, state.connections);
    take_over_answers(context_, state.answers, responders, listen);
    take_over_pooling(context_, state.pooling, responders);
  }

  void stop() {
    begin_drain();
    server_.stop();  // every job hears that its client is gone and cancels on the pool
    if (keeper_) keeper_->stop();
    pool_->stop();
  }

 private:
  std::shared_ptr<TaskPool> pool_;
  std::shared_ptr<AnswerKeeper> keeper_;
  std::shared_ptr<ApiContext> context_;
  std::unique_ptr<BatchService> batches_;  // null: none
  HttpServer server_;
};

ApiServer::ApiServer(InferenceService& service, const TextCodec& codec, ModelInfo model,
                     Metrics& metrics, ApiServerOptions options)
    : state_(std::make_unique<State>(service, codec, std::move(model), metrics, options)) {}

ApiServer::~ApiServer() { stop(); }

void ApiServer::start() { state_->start(); }
uint16_t ApiServer::port() const { return state_->port(); }
void ApiServer::set_access(HttpAccess access) { state_->set_access(std::move(access)); }
void ApiServer::begin_drain() { state_->begin_drain(); }
bool ApiServer::drain(int timeout_ms) { return state_->drain(timeout_ms); }
void ApiServer::stop() { state_->stop(); }

void ApiServer::hold_new_work(std::chrono::milliseconds deadline) {
  state_->hold_new_work(deadline);
}
int ApiServer::n_connections() { return state_->server().n_connections(); }
bool ApiServer::settle(std::chrono::steady_clock::time_point deadline,
                       const std::function<void()>& service_settles) {
  return state_->settle(deadline, service_settles);
}
void ApiServer::hold_all() { state_->server().hold_all(); }
ApiState ApiServer::state() { return state_->state(); }
void ApiServer::go_on() { state_->go_on(); }
void ApiServer::take_over(
    const ApiState& state,
    const std::function<bool(RequestId, InferenceService::EventHandler)>& listen) {
  state_->take_over(state, listen);
}

}  // namespace trireme
