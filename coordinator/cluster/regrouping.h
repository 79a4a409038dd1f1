#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/cluster/formation.h"
#include "coordinator/cluster/launch_spec.h"

namespace trireme {

// What counts at most of the time between two timers, which are 20 ms apart when all is well.
inline constexpr int64_t kMostCountedMs = 40;

// When a group is launched again after a loss, and in which formation: the whole one; without hosts
// that cannot be reached or do not answer, or after launches here that failed, a smaller one; a
// larger one again when it can be had. A state machine without clock or process, driven by the
// supervisor; of a spec without smaller layouts it never asks or moves, but it waits for hosts.
// docs/degraded.md tells people the rules.
//
// Of hosts it learns in two ways. A knock (coordinator/cluster/host_knock) shows at once whether
// the network reaches one, if that host answers knocks at all: those that did while the group
// served are expected to. Asked, through the launcher, a host shows whether it could start ranks;
// that takes as long as a launch.
class Regrouping {
 public:
  explicit Regrouping(const LaunchSpec& spec);

  // Of the present launch; between launches, of the last one.
  const Formation& formation() const { return formation_; }
  bool is_whole() const { return formation_ == whole_formation(spec_); }
  // The present launch gave up a smaller formation that served.
  bool is_returning() const { return fallback_.has_value(); }
  // For the present launch. One that gave up a group that served must come up soon.
  int32_t launch_ms() const;

  void on_launch(int64_t now_ms);
  void on_serving(int64_t now_ms);
  // Of a group that served. `silently`: perhaps a host is gone.
  void on_lost(int64_t now_ms, bool silently);
  // At every loss and whenever the group serves. True: knock at the hosts of its ranks, present and
  // former, until the next launch or the next of these; on_reached follows for each that answers.
  bool begin_knocks(int64_t now_ms);
  void on_reached(const std::string& host);
  // Of a group that served before. True: the next launch is another formation's.
  bool on_launch_failed();

  // Between launches, again and again.
  enum class Next : uint8_t {
    kLaunch,
    kWait,          // for what is soon known
    kWaitForHosts,  // unreached()
    kAskHosts,      // all of them, now; on_answers will follow
  };
  Next watch_loss(int64_t now_ms);
  // Those that the network does not reach, of the next launch.
  std::vector<std::string> unreached() const;

  // While a launch waits for its ranks. True: as kAskHosts.
  bool watch_launch(int64_t now_ms);

  enum class Wish : uint8_t { kNone, kAskHosts, kMove };
  // While the group serves. kMove: end it, the next launch is of a larger formation.
  Wish watch_serving(int64_t now_ms, bool is_idle);

  // The spec's hosts that answered, asked while a launch waited or between launches. Returns those
  // of the present formation that did not, if the next launch does without them.
  std::vector<std::string> on_answers(const std::vector<std::string>& hosts);
  // Asked while the group serves. True: as kMove.
  bool on_answers_serving(int64_t now_ms, const std::vector<std::string>& hosts);

 private:
  bool asks_hosts() const;
  Next watch_reach();
  const Formation& upcoming() const { return next_ ? *next_ : formation_; }
  bool has_choice() const { return served_ && !spec_.smaller_layouts.empty(); }
  void grow_to(const Formation& formation);

  const LaunchSpec spec_;
  Formation formation_;
  std::optional<Formation> next_;      // of the next launch, where it is another
  std::optional<Formation> fallback_;  // served before the present launch gave it up
  bool served_ = false;
  bool suspicious_ = false;  // ask hosts before the next launch
  bool asking_ = false;
  bool asked_ = false;               // since the last loss
  std::set<std::string> knockable_;  // they answer knocks while all is well
  std::set<std::string> reached_;    // since the last knocks began
  int64_t waited_ms_ = 0;            // since then
  int64_t last_reached_ms_ = 0;      // in waited_ms_
  int64_t looked_at_ms_ = 0;
  int64_t ask_at_ms_ = 0;
  int64_t serving_since_ms_ = 0;
  int64_t return_at_ms_ = 0;
  int64_t return_interval_ms_ = 0;
};

}  // namespace trireme
