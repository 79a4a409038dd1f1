#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/http/answer_keeper.h"
#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_job.h"
#include "coordinator/http/http_message.h"
#include "coordinator/http/key_accounts.h"
#include "coordinator/http/live_jobs.h"
#include "coordinator/http/metrics.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/number_budget.h"
#include "coordinator/http/pooling_call.h"
#include "coordinator/http/task_pool.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

class BatchService;
class PoolingJob;
struct PoolingState;

// What handlers work with. Lives as long as any of them runs.
struct ApiContext {
  InferenceService& service;
  const TextCodec& codec;
  Metrics& metrics;
  const ModelInfo model;
  const std::shared_ptr<TaskPool> pool;
  const std::shared_ptr<AnswerKeeper> keeper;  // null: no journal
  const std::shared_ptr<const GuideMaker> guides;
  LiveJobs<GenerationJob> jobs;
  KeyAccounts keys;
  std::atomic<bool> draining{false};
  std::atomic<bool> was_ready{false};  // a group has served since the start
  BatchService* batches = nullptr;     // null: no files and batches
  LiveJobs<PoolingJob> pooling_jobs;
  NumberBudget numbers{kMaxNumbersUnderWay};  // of the pooling jobs' answers
  bool sleep_mode = false;                    // /sleep and /wake_up are there

  // The service's status, with this server's own draining in it.
  ServiceStatus status();
};

// Lets a request in that came with an API key: it counts while the lease lives. Or says why none
// can be taken now.
std::variant<KeyAccounts::Lease, ApiError> let_in(ApiContext& context, const std::string& key_name);

// Why a path's model is none of this server's.
std::optional<ApiError> check_served(const ApiContext& context, const std::string& model);
// Why it makes no sense to keep this process: no group can ever answer once the breaker is open.
std::optional<ApiError> check_alive(ApiContext& context);
// Why no requests should be sent here now.
std::optional<ApiError> check_ready(ApiContext& context);

// A refusal of InferenceService::submit in HTTP.
ApiError submit_refusal(ApiContext& context, const Error& error);

// Goes on with what a coordinator before this one left in the journal: all of it, or one request.
void resume_answers(const std::shared_ptr<ApiContext>& context);
void resume_answer(const std::shared_ptr<ApiContext>& context, const Journal::EntryPtr& entry);

// Goes on with the answers of another coordinator in this process. `responders`: of their clients,
// by descriptor. `listen` has the service tell a request's events to its answer.
void take_over_answers(const std::shared_ptr<ApiContext>& context,
                       const std::vector<AnswerState>& answers,
                       const std::map<int, ResponderPtr>& responders,
                       const GenerationJob::Listen& listen);

// Begins again what another coordinator in this process did not end.
void take_over_pooling(const std::shared_ptr<ApiContext>& context,
                       const std::vector<PoolingState>& requests,
                       const std::map<int, ResponderPtr>& responders);

// A GET that is answered at once.
using StatusAnswer = HttpResponse (*)(ApiContext&, const HttpRequest&);
Route status_route(const std::shared_ptr<ApiContext>& context, const char* path,
                   StatusAnswer answer, RouteAccess access);

// Endpoints by file: generation_endpoints, infer_endpoints, pooling_endpoints, answer_endpoints,
// tokenize_endpoints, batch_endpoints, status_endpoints, sleep_endpoints.
std::vector<Route> generation_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> infer_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> pooling_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> answer_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> tokenize_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> batch_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> status_routes(const std::shared_ptr<ApiContext>& context);
std::vector<Route> sleep_routes(const std::shared_ptr<ApiContext>& context);
// All of them, as openapi.yaml describes them.
std::vector<Route> all_routes(const std::shared_ptr<ApiContext>& context);

}  // namespace trireme
