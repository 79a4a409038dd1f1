#include "coordinator/cluster/regrouping.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

constexpr int64_t kAskAfterMs = 1000;        // a launch that goes well is over before
constexpr int32_t kReturnLaunchMs = 10000;   // clients wait for it, and there is a way back
constexpr int64_t kMostReturnMs = 3600'000;  // between two tries to return, after many in vain

}  // namespace

Regrouping::Regrouping(const LaunchSpec& spec)
    : spec_(spec),
      formation_(whole_formation(spec)),
      return_interval_ms_(spec.deadlines.return_ms) {}

// With one host, or the ranks on this one, there is nobody to ask who could be left out.
bool Regrouping::asks_hosts() const {
  return spec_.launcher != LauncherKind::kLocal && spec_.hosts.size() > 1;
}

int32_t Regrouping::launch_ms() const {
  return fallback_ ? std::min(kReturnLaunchMs, spec_.deadlines.launch_ms)
                   : spec_.deadlines.launch_ms;
}

void Regrouping::on_launch(int64_t now_ms) {
  if (next_) formation_ = *next_;
  next_.reset();
  asking_ = false;  // where the group was stopped meanwhile
  ask_at_ms_ = now_ms + kAskAfterMs;
}

void Regrouping::on_serving(int64_t now_ms) {
  served_ = true;
  suspicious_ = false;
  next_.reset();
  fallback_.reset();
  for (const std::string& host : formation_.hosts) knockable_.erase(host);
  serving_since_ms_ = now_ms;
  return_at_ms_ = now_ms + return_interval_ms_;
}

// A silent rank is no reason to ask hosts of which knocks will tell. A whole group that held shows
// that its hosts are to be trusted again.
void Regrouping::on_lost(int64_t now_ms, bool silently) {
  const auto tells = [this](const auto& host) { return knockable_.contains(host); };
  suspicious_ = silently && !std::all_of(formation_.hosts.begin(), formation_.hosts.end(), tells);
  const bool held = is_whole() && now_ms - serving_since_ms_ >= return_interval_ms_;
  if (held) return_interval_ms_ = spec_.deadlines.return_ms;
}

bool Regrouping::on_launch_failed() {
  suspicious_ = !next_;
  if (!has_choice()) return false;
  if (!next_ && fallback_) next_ = fallback_;
  fallback_.reset();
  if (!next_ && !asks_hosts()) {
    const auto smaller = std::find_if(
        spec_.smaller_layouts.begin(), spec_.smaller_layouts.end(), [this](const auto& choice) {
          return choice.layout.n_ranks() < formation_.choice.layout.n_ranks();
        });
    if (smaller != spec_.smaller_layouts.end()) {
      next_ = Formation{.choice = *smaller, .hosts = spec_.hosts};
    }
  }
  return next_.has_value();
}

bool Regrouping::begin_knocks(int64_t now_ms) {
  const bool over_hosts =
      (spec_.launcher == LauncherKind::kMpirun || spec_.launcher == LauncherKind::kSrun) &&
      !spec_.hosts.empty();
  reached_.clear();
  asked_ = false;
  waited_ms_ = 0;
  last_reached_ms_ = 0;
  looked_at_ms_ = now_ms;
  return over_hosts && served_;
}

void Regrouping::on_reached(const std::string& host) {
  knockable_.insert(host);
  reached_.insert(host);
  last_reached_ms_ = waited_ms_;
}

std::vector<std::string> Regrouping::unreached() const {
  std::vector<std::string> missing;
  for (const std::string& host : upcoming().hosts) {
    if (knockable_.contains(host) && !reached_.contains(host)) missing.push_back(host);
  }
  return missing;
}

Regrouping::Next Regrouping::watch_loss(int64_t now_ms) {
  // While this process itself did not run, it could not learn of an answer.
  waited_ms_ += std::min(now_ms - std::exchange(looked_at_ms_, now_ms), kMostCountedMs);
  if (asking_) return Next::kWait;
  Next next = Next::kLaunch;
  if (std::exchange(suspicious_, false) && has_choice() && asks_hosts()) {
    next = Next::kAskHosts;
  } else if (!unreached().empty()) {
    next = watch_reach();
  }
  asking_ = next == Next::kAskHosts;
  asked_ = asked_ || asking_;
  return next;
}

// Some host does not answer knocks any more.
Regrouping::Next Regrouping::watch_reach() {
  // They may all come back together.
  if (waited_ms_ - last_reached_ms_ < spec_.deadlines.reach_ms) return Next::kWait;
  if (has_choice() && asks_hosts()) {
    std::vector<std::string> there;
    bool all_told = true;
    for (const std::string& host : spec_.hosts) {
      all_told = all_told && knockable_.contains(host);
      if (reached_.contains(host)) there.push_back(host);
    }
    // One without ranks was never knocked at, and may take the place.
    if (!all_told && !asked_) return Next::kAskHosts;
    if (const auto best = formation_on(spec_, there)) {
      next_ = best;
      return Next::kLaunch;
    }
  }
  return waited_ms_ < spec_.deadlines.launch_ms ? Next::kWaitForHosts : Next::kLaunch;
}

bool Regrouping::watch_launch(int64_t now_ms) {
  if (!has_choice() || !asks_hosts() || asking_ || now_ms < ask_at_ms_) return false;
  asking_ = true;
  ask_at_ms_ = now_ms + spec_.deadlines.probe_ms + kAskAfterMs;
  return true;
}

Regrouping::Wish Regrouping::watch_serving(int64_t now_ms, bool is_idle) {
  if (!has_choice() || is_whole() || asking_ || now_ms < return_at_ms_) return Wish::kNone;
  if (asks_hosts()) {
    asking_ = true;
    return Wish::kAskHosts;
  }
  if (!is_idle) return Wish::kNone;
  grow_to(whole_formation(spec_));
  return Wish::kMove;
}

std::vector<std::string> Regrouping::on_answers(const std::vector<std::string>& hosts) {
  asking_ = false;
  reached_.insert(hosts.begin(), hosts.end());
  std::vector<std::string> missing;
  for (const std::string& host : formation_.hosts) {
    if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) missing.push_back(host);
  }
  if (missing.empty()) return {};
  const std::optional<Formation> best = formation_on(spec_, hosts);
  if (!best) return {};
  next_ = best;
  return missing;
}

bool Regrouping::on_answers_serving(int64_t now_ms, const std::vector<std::string>& hosts) {
  asking_ = false;
  if (is_whole() || now_ms < return_at_ms_) return false;
  return_at_ms_ = now_ms + spec_.deadlines.return_ms;
  const std::optional<Formation> best = formation_on(spec_, hosts);
  if (!best || best->choice.layout.n_ranks() <= formation_.choice.layout.n_ranks()) return false;
  grow_to(*best);
  return true;
}

void Regrouping::grow_to(const Formation& formation) {
  next_ = formation;
  fallback_ = formation_;
  return_interval_ms_ =
      std::max(return_interval_ms_, std::min(2 * return_interval_ms_, kMostReturnMs));
}

}  // namespace trireme
