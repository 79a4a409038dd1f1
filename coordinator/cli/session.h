#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cli/cluster_options.h"
#include "coordinator/cli/machine.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/weights_push.h"
#include "coordinator/serving/inference_core.h"
#include "model/model_config.h"
#include "model/packed_folder.h"

namespace trireme {

struct HandoverState;
class PackedModel;

// A model made ready and its groups of ranks, as every command that computes needs them: checks,
// packs, launches, waits, ends.
class Session {
 public:
  // Makes the grammars of requests for a model; null: requests have none.
  using MakeGuides = std::function<std::shared_ptr<const GuideMaker>(const ModelConfig& config)>;

  // Checks the model and the layout and packs the weights. Throws EnvironmentError.
  Session(ClusterOptions options, ServingObserver observer,
          const MakeGuides& make_guides = nullptr);
  // Goes on with the ranks and requests of another coordinator in this process.
  Session(ClusterOptions options, ServingObserver observer, const MakeGuides& make_guides,
          HandoverState& taken);
  // Ends the ranks and removes the run folder.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Launches the groups; returns at once.
  void start();
  // The same, and serves them on this thread until stop().
  void run();
  // Run folder and secret, for another coordinator.
  void describe(HandoverState& state) const;
  // Waits until every replica serves; throws EnvironmentError when one never will.
  void wait_serving();
  // Called once, from the service's thread, when no replica is left that could serve.
  void on_hopeless(std::function<void()> callback);
  // Why, once it is so.
  std::optional<std::string> hopeless() const;
  // Ends all ranks. Idempotent.
  void stop();

  InferenceCore& core() { return *core_; }
  const ClusterOptions& options() const { return options_; }
  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<const GuideMaker>& guides() const { return guides_; }
  const std::filesystem::path& run_folder() const { return run_folder_.path(); }
  int32_t context_length() const { return job_.context_length; }

  // Has new requests answered with another model of the same kind: packs its weights if need be,
  // and returns, one line for people, when every rank has them in use. Throws EnvironmentError:
  // nothing has changed. One at a time, from any thread.
  std::string push(const std::string& model, const WeightsPush::Tell& tell);
  // Ends a push that is under way, and refuses others.
  void refuse_pushes();

  // A command on the set of replicas (`trireme replicas`): returns what it says. Throws
  // EnvironmentError: the set is as it was. From any thread.
  std::string list_replicas() const;
  // `hosts`: of its own; none: those of all.
  std::string add_replica(const std::vector<std::string>& hosts);
  std::string remove_replica(int replica, std::chrono::seconds patience);

  // Model, layout, rank -> host -> device, context length, KV capacity; lines ended by \n. For a
  // session that serves.
  std::string banner() const;

 private:
  struct ReplicaSeen {
    bool in = true;
    bool served = false;
    bool broken = false;
    Layout layout;                   // of the last launch that served
    std::vector<std::string> hosts;  // of its own
  };

  void resolve_model();
  void resolve_model_and_limits();
  void resolve_smaller_layouts();
  std::filesystem::path packed_file();
  LaunchSpec launch_spec(int replica) const;
  std::vector<std::string> own_hosts(int replica) const;
  void see_new(size_t replica);
  void check_join(const std::vector<std::string>& hosts) const;
  ReplicaListener listener();
  bool all_served() const;
  bool none_left() const;
  std::string layout_line(int replica, const GroupCapacity& capacity) const;
  void make_core(ServingObserver observer, const PackedModel& packed, HandoverState* taken);

  ClusterOptions options_;
  std::filesystem::path model_path_;  // absolute
  ModelPlace place_;
  TemporaryFolder run_folder_;
  ModelConfig config_;
  std::shared_ptr<const GuideMaker> guides_;
  JobSpec job_;
  std::vector<LayoutChoice> smaller_layouts_;
  std::string secret_;
  Progress loading_{"loading"};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ReplicaSeen> seen_;
  std::vector<std::string> joining_hosts_;  // of the replica that is to join
  std::string error_;                       // of the last replica that broke
  std::function<void()> on_hopeless_;
  std::unique_ptr<InferenceCore> core_;
  std::unique_ptr<WeightsPush> push_;
};

}  // namespace trireme
