#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/formation.h"
#include "coordinator/cluster/launch_spec.h"

namespace trireme {

// Which formation a group is launched in: the whole one; without hosts that do not answer, or after
// launches here that failed, a smaller one; a larger one again when it can be had. A state machine
// without clock or process, driven by the supervisor; of a spec without smaller layouts it never
// asks or moves. docs/degraded.md tells people the rules.
class Regrouping {
 public:
  explicit Regrouping(const LaunchSpec& spec);

  // Of the present launch; between launches, of the last one.
  const Formation& formation() const { return formation_; }
  bool is_whole() const { return formation_ == whole_formation(spec_); }
  // Hosts are being asked: their answers are worth waiting for before a launch.
  bool is_asking() const { return asking_; }
  // The present launch gave up a smaller formation that served.
  bool is_returning() const { return fallback_.has_value(); }
  // For the present launch. One that gave up a group that served must come up soon.
  int32_t launch_ms() const;

  void on_launch(int64_t now_ms);
  void on_serving(int64_t now_ms);
  // Of a group that served. `silently`: perhaps a host is gone.
  void on_lost(int64_t now_ms, bool silently);
  // Of a group that served before. True: the next launch is another formation's.
  bool on_launch_failed();

  // Between launches, and while one waits for its ranks. True: ask all hosts now, on_answers will
  // follow.
  bool watch_loss();
  bool watch_launch(int64_t now_ms);

  enum class Wish : uint8_t { kNone, kAskHosts, kMove };
  // While the group serves. kMove: end it, the next launch is of a larger formation.
  Wish watch_serving(int64_t now_ms, bool is_idle);

  // The spec's hosts that answered, asked while a launch waited or between launches. Returns those
  // of the formation that did not, if the next launch does without them.
  std::vector<std::string> on_answers(const std::vector<std::string>& hosts);
  // Asked while the group serves. True: as kMove.
  bool on_answers_serving(int64_t now_ms, const std::vector<std::string>& hosts);

 private:
  bool asks_hosts() const;
  bool has_choice() const { return served_ && !spec_.smaller_layouts.empty(); }
  void grow_to(const Formation& formation);

  const LaunchSpec spec_;
  Formation formation_;
  std::optional<Formation> next_;      // of the next launch, where it is another
  std::optional<Formation> fallback_;  // served before the present launch gave it up
  bool served_ = false;
  bool suspicious_ = false;  // ask hosts before the next launch
  bool asking_ = false;
  int64_t ask_at_ms_ = 0;
  int64_t serving_since_ms_ = 0;
  int64_t return_at_ms_ = 0;
  int64_t return_interval_ms_ = 0;
};

}  // namespace trireme
