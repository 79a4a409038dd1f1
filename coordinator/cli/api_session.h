#pragma once

#include <memory>
#include <string>

#include "coordinator/batch/batch_store.h"
#include "coordinator/cli/cluster_options.h"
#include "coordinator/cli/session.h"
#include "coordinator/http/api_server.h"
#include "coordinator/http/metrics.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/journal/journal.h"
#include "coordinator/serving/pipeline_bubble.h"
#include "model/packed_folder.h"

namespace trireme {

// A session with its text side, metrics, journal and, once opened, its HTTP API.
class ApiSession {
 public:
  // Reads the tokenizer and opens the journal first, then as Session. `taken`: of the coordinator
  // before this one in the process, whose ranks and clients these become; must outlive open().
  // Throws EnvironmentError.
  explicit ApiSession(const ClusterOptions& options, HandoverState* taken = nullptr);
  // Closes the API, then ends the ranks.
  ~ApiSession();

  // Listens. Throws EnvironmentError when the port cannot be had. With `taken`, nothing moves
  // before api().go_on().
  void open();
  // Closes the API, then ends the ranks. Idempotent.
  void close();
  // For the next coordinator, but for what core and API say of themselves.
  void describe(HandoverState& state) const;
  // Reads the files of keys and certificate again; says so, or why the old ones stay.
  void reload_access();
  // As of Session; counts it.
  std::string push(const std::string& model, const WeightsPush::Tell& tell);
  // Gauges that are read, not told: from the ranks' last heartbeats.
  void update_metrics();

  Session& session() { return *session_; }
  const TextCodec& codec() const { return *codec_; }
  Metrics& metrics() { return metrics_; }
  // `created`: seconds since 1970.
  ModelInfo model_info(int64_t created) const;
  // After open().
  ApiServer& api() { return *api_; }

 private:
  std::unique_ptr<Session> make_session(const ClusterOptions& options, HandoverState* taken);

  HandoverState* const taken_;
  const std::string environment_key_;  // TRIREME_API_KEY
  HttpAccess access_;
  const ModelPlace place_;
  std::unique_ptr<TextCodec> codec_;
  const std::string other_pooling_;                         // as of ModelInfo
  const std::shared_ptr<const ClassifierHead> classifier_;  // the same
  Metrics metrics_;
  std::unique_ptr<Journal> journal_;     // null: none asked for
  std::unique_ptr<BatchStore> batches_;  // the same
  std::unique_ptr<Session> session_;
  std::unique_ptr<ApiServer> api_;
  PipelineBubble bubble_;
};

}  // namespace trireme
