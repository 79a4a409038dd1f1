#include "coordinator/cli/api_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>

#include "comm/control/build_id.h"
#include "coordinator/cli/message_style.h"
#include "coordinator/cli/say.h"
#include "coordinator/cluster/launchers.h"
#include "coordinator/handover/handover_state.h"
#include "coordinator/http/request_log.h"
#include "coordinator/http/secret_file.h"
#include "coordinator/http/tokenizer_codec.h"
#include "kernels/result.h"
#include "model/classifier_head.h"
#include "model/model_folder.h"
#include "model/pooling_config.h"

namespace trireme {
namespace {

std::string served_name(const ClusterOptions& options) {
  if (!options.served_name.empty()) return options.served_name;
  const auto path = std::filesystem::weakly_canonical(options.model);
  return path.filename().empty() ? path.parent_path().filename().string()
                                 : path.filename().string();
}

void check_not_below(const char* option, int32_t value, int32_t least) {
  if (value >= least) return;
  throw EnvironmentError(
      fmt::format("{} {} is out of range: use {} or more", option, value, least));
}

std::unique_ptr<Journal> open_journal(const JournalSettings& settings, Metrics& metrics) {
  if (settings.file.empty()) return nullptr;
  check_not_below("--journal-retention", settings.retention_s, 0);
  check_not_below("--journal-grace", settings.grace_s, 0);
  check_not_below("--journal-mib", settings.mib, 1);
  JournalOptions options;
  options.path = settings.file;
  options.retention_s = settings.retention_s;
  options.max_bytes = int64_t{settings.mib} << 20;
  options.on_problem = [&metrics](const std::string& problem) {
    metrics.set_journal_failing(!problem.empty());
  };
  return std::make_unique<Journal>(std::move(options));
}

std::unique_ptr<BatchStore> open_batches(const BatchSettings& settings) {
  if (settings.folder.empty()) return nullptr;
  check_not_below("--batches-gib", settings.gib, 1);
  return std::make_unique<BatchStore>(
      BatchStoreOptions{.folder = settings.folder, .max_bytes = int64_t{settings.gib} << 30});
}

// The ranks do not inherit the key.
std::string take_environment_key() {
  constexpr const char* kVariable = "TRIREME_API_KEY";
  const char* given = std::getenv(kVariable);
  std::string key = given != nullptr ? given : "";
  unsetenv(kVariable);
  return key;
}

HttpAccess read_access(const ClusterOptions& options, const std::string& environment_key) {
  HttpAccess access{.keys = ApiKeys::read(options.api_keys, environment_key),
                    .protect_metrics = options.protect_metrics};
  if (options.protect_metrics && access.keys.empty()) {
    throw EnvironmentError("--protect-metrics: there are no keys; give --api-keys FILE");
  }
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    throw EnvironmentError("--tls-cert and --tls-key: give both or neither");
  }
  if (!options.tls_cert.empty()) {
    check_secret_file(options.tls_key, "--tls-key");
    access.tls = TlsContext::server_by_certificate(options.tls_cert, options.tls_key);
  }
  return access;
}

void warn_of_open_address(const std::string& host, const HttpAccess& access) {
  if (is_loopback(host) || (!access.keys.empty() && access.tls)) return;
  const char* what =
      !access.keys.empty() ? "and what they send and get is not encrypted (--tls-cert, --tls-key)"
      : access.tls         ? "and everybody there may use it (--api-keys)"
                           : "everybody there may use it, and nothing is encrypted (--api-keys, "
                             "--tls-cert, --tls-key)";
  say(stderr, "trireme: warning: other machines can reach {}, {}\n", host, what);
}

// Ranks that do not serve have not said yet what they hold, or hold nothing any more.
void append_memory(const ReplicaSnapshot& replica, std::vector<RankMemory>& memory) {
  if (replica.status != GroupStatus::kServing) return;
  for (const RankInfo& rank : replica.ranks) {
    memory.push_back({.replica = replica.replica,
                      .rank = rank.world_rank,
                      .weight_bytes = rank.weight_bytes,
                      .kv_bytes = rank.kv_bytes,
                      .workspace_bytes = rank.workspace_bytes});
  }
}

}  // namespace

ApiSession::ApiSession(const ClusterOptions& options, HandoverState* taken)
    // First of all, so that what is wrong with it shows before anything is loaded.
    : taken_(taken),
      environment_key_(taken == nullptr ? take_environment_key() : taken->environment_key),
      access_(read_access(options, environment_key_)),
      place_(model_place(resolve_model(options.model))),
      codec_(load_tokenizer_codec(place_.folder)),
      other_pooling_(other_pooling(place_.folder)),
      classifier_(load_classifier_head(place_)),
      metrics_({.model_name = served_name(options), .version = std::string(build_id())}),
      journal_(open_journal(options.journal, metrics_)),
      batches_(open_batches(options.batches)),
      session_(make_session(options, taken)) {
  if (taken != nullptr) metrics_.go_on_from(taken->metrics);
}

std::unique_ptr<Session> ApiSession::make_session(const ClusterOptions& options,
                                                  HandoverState* taken) {
  const auto make_guides = [this](const ModelConfig& config) {
    return codec_->make_guides(config.vocab_size, config.eos_token_ids);
  };
  if (taken == nullptr) return std::make_unique<Session>(options, metrics_.observer(), make_guides);
  return std::make_unique<Session>(options, metrics_.observer(), make_guides, *taken);
}

ApiSession::~ApiSession() { close(); }

void ApiSession::close() {
  if (api_) api_->stop();
  session_->stop();
}

void ApiSession::describe(HandoverState& state) const {
  session_->describe(state);
  state.environment_key = environment_key_;
  state.served_name = served_name(session_->options());
  state.metrics = metrics_.state();
}

ModelInfo ApiSession::model_info(int64_t created) const {
  ModelInfo model{.id = served_name(session_->options()),
                  .created = created,
                  .context_length = session_->context_length(),
                  .vocab_size = session_->config().vocab_size,
                  .eos_token_ids = session_->config().eos_token_ids,
                  .hidden_size = session_->config().hidden_size,
                  .other_pooling = other_pooling_,
                  .classifier = classifier_,
                  .has_lm_head = has_lm_head(place_, session_->config())};
  set_message_style(session_->options(), *codec_, &model);
  return model;
}

void ApiSession::open() {
  const ClusterOptions& options = session_->options();
  const ModelInfo model = model_info(std::time(nullptr));
  metrics_.set_weights(*session_->core().weights());
  if (taken_ == nullptr) warn_of_open_address(options.host, access_);
  ApiServerOptions api{.host = options.host,
                       .port = options.port,
                       .access = access_,
                       .journal = journal_.get(),
                       .journal_grace_s = options.journal.grace_s,
                       .guides = session_->guides(),
                       .batches = batches_.get(),
                       .n_slots = options.n_replicas * options.max_sequences,
                       .sleep_mode = options.sleep_mode};
  api.limits.request_timeout_ms = options.request_timeout_ms;
  api.limits.write_timeout_ms = options.write_timeout_ms;
  if (options.log_requests) {
    api.on_request = [](const HttpRequest& request) {
      if (!request.body.empty()) say(stderr, "{}\n", request_log_line(request));
    };
  }
  api_ = std::make_unique<ApiServer>(session_->core(), *codec_, model, metrics_, std::move(api));
  if (taken_ == nullptr) return api_->start();
  InferenceCore& core = session_->core();
  api_->take_over(taken_->api, [&core](RequestId id, InferenceService::EventHandler on_event) {
    return core.listen(id, std::move(on_event));
  });
  core.cancel_unheard();
}

void ApiSession::reload_access() {
  try {
    access_ = read_access(session_->options(), environment_key_);
  } catch (const EnvironmentError& error) {
    say(stderr, "trireme: keys and certificate stay as they were: {}\n", error.what());
    return;
  }
  api_->set_access(access_);
  say(stderr, "trireme: read keys and certificate again\n");
}

std::string ApiSession::push(const std::string& model, const WeightsPush::Tell& tell) {
  try {
    if (classifier_ != nullptr) {
      throw EnvironmentError(
          "not pushed: the head of a classification model cannot be changed while it is served; "
          "start the server anew");
    }
    std::string done = session_->push(model, tell);
    metrics_.set_weights(*session_->core().weights());
    metrics_.count_push("done");
    return done;
  } catch (const EnvironmentError& error) {
    metrics_.count_push("failed");
    say(stderr, "trireme: the weights stay as they were: {}\n", error.what());
    throw;
  }
}

// A stage's time is that of its first rank; of the first replica alone where stages are told apart.
void ApiSession::update_metrics() {
  int n_alive = 0;
  uint64_t loaded = 0;
  uint64_t total = 0;
  uint64_t comm_us = 0;
  std::vector<RankMemory> memory;
  for (const ReplicaSnapshot& replica : session_->core().replicas()) {
    metrics_.set_kv_fragmentation(replica.replica, replica.kv_fragmentation);
    append_memory(replica, memory);
    n_alive += replica.n_ranks_alive;
    loaded += replica.loaded_bytes;
    total += replica.total_bytes;
    const Layout& layout = replica.layout;
    uint64_t computed_us = 0;
    for (const RankInfo& rank : replica.ranks) {
      const RankState& state = rank.last_state;
      comm_us += state.comm_us;
      if (layout.tp_rank(rank.world_rank) != 0) continue;
      if (rank.world_rank >= layout.n_ranks()) continue;  // of a launch that does not serve yet
      computed_us += state.busy_us - std::min(state.busy_us, state.stage_wait_us);
      if (replica.replica != 0) continue;
      const uint64_t waited = std::min(state.busy_us, state.comm_us);
      metrics_.set_stage_busy(layout.pp_rank(rank.world_rank),
                              static_cast<double>(state.busy_us - waited) * 1e-6);
    }
    bubble_.observe(replica.replica, {.epoch = replica.epoch,
                                      .n_stages = layout.pp,
                                      .computed_us = computed_us,
                                      .working_us = replica.working_us});
  }
  metrics_.set_memory(memory);
  metrics_.set_bubble_ratio(bubble_.ratio());
  metrics_.set_ranks_alive(n_alive);
  metrics_.set_comm(static_cast<double>(comm_us) * 1e-6);
  if (total > 0) {
    metrics_.set_load_progress(static_cast<double>(loaded) / static_cast<double>(total));
  }
}

}  // namespace trireme
