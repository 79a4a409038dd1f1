// Thousands of seeded runs of the whole coordinator below HTTP - service, schedulers, block
// managers, supervisors, replay - on virtual time and simulated ranks that crash, hang, fall silent
// and answer late. No token is lost or repeated, no KV block leaks, every request ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>

#include "coordinator/serving/inference_core.h"
#include "tests/coordinator/serving_bench.h"
#include "tests/coordinator/serving_fake_drafter.h"
#include "tests/coordinator/simulated_group.h"

namespace trireme {
namespace {

using fake::SimulatedClock;
using fake::SimulatedCoverage;
using fake::SimulatedFaults;
using fake::SimulatedGroup;

constexpr int64_t kAllMustEndMs = 3600 * 1000;  // of virtual time

struct Coverage {
  SimulatedCoverage groups;
  int n_finished = 0;
  int n_cancelled = 0;
  int n_given_up = 0;
  int n_poisoned = 0;
  int n_too_long = 0;  // for what a smaller layout holds
  int n_pushed = 0;
  int n_push_failures = 0;
  int n_asleep = 0;
  int n_woken = 0;
  int n_on_old_weights = 0;  // requests that ended on others than new ones got then
  int64_t n_cached = 0;      // tokens that were not computed again
  int64_t n_guessed_right = 0;
  int n_guided = 0;  // that the end of their grammar ended
  int n_failed_grammars = 0;
  int n_crowded = 0;  // requests whose turn came in spite of another tenant's crowd
  int64_t virtual_ms = 0;
};

class Simulation {
 public:
  Simulation(uint64_t seed, Coverage& coverage) : random_(seed), coverage_(coverage) {
    n_replicas_ = chance(0.3) ? 2 : 1;
    InferenceCoreOptions options;
    options.scheduler = random_config();
    options.n_replicas = n_replicas_;
    options.weights = {.generation = 1, .path = "w1", .fingerprint = 1};
    options.guides = std::make_shared<fake::Guides>();
    const SimulatedFaults faults = random_faults();
    LaunchSpec spec = random_spec(options.scheduler);
    spec.job.weights = {options.weights};
    const auto n_blocks = static_cast<int32_t>(pick(10, 40));
    core_ = std::make_unique<InferenceCore>(
        options,
        [&](boost::asio::io_context& io, int, Group::Events events) {
          io_ = &io;
          auto group = std::make_unique<SimulatedGroup>(
              clock_, random_, faults, coverage_.groups, spec, options.scheduler.max_slots,
              n_blocks, options.scheduler.max_batch_tokens, std::move(events));
          groups_.push_back(group.get());
          return group;
        },
        ServingObserver{.on_preemption = [this] { ++n_preemptions_; },
                        .on_prefix_cache =
                            [this](const PrefixCacheCounts& more) {
                              coverage_.n_cached += static_cast<int64_t>(more.n_hit);
                            },
                        .on_guesses =
                            [this](const GuessCounts& more) {
                              coverage_.n_guessed_right += static_cast<int64_t>(more.n_right);
                            }},
        ReplicaListener{});
    poison_ = faults.poison;
    for (SimulatedGroup* group : groups_) group->start();
    plan_clients();
    if (chance(0.5)) plan_pushes();
    if (chance(0.3)) plan_naps();
    if (n_replicas_ == 1 && chance(0.2)) plan_crowd(options.scheduler.max_slots);
  }

  void run() {
    while (!all_ended() || n_naps_open_ > 0) {
      io_->poll();
      ASSERT_TRUE(clock_.step());
      ASSERT_LT(clock_.now(), kAllMustEndMs) << "a request or a sleep never ended";
      if (testing::Test::HasFailure()) return;
    }
    settle();
    coverage_.virtual_ms += clock_.now();
    check();
  }

 private:
  struct Client {
    GenerateRequest request;
    RequestId id = 0;
    uint64_t generation = 0;  // of the weights
    bool refused = false;
    bool cancelled = false;
    fake::Transcript heard;
    bool has_token() const { return !heard.token_ids.empty(); }
  };
  // One tenant's many requests, and another one's only one, which comes when they wait.
  struct Crowd {
    size_t first = 0;  // of its clients
    Client* other = nullptr;
    int most_before = 0;    // of the crowd, may get their first token before it does
    int n_at_submit = -1;   // had theirs when it came
    uint64_t at_epoch = 0;  // of the group then
    int n_preemptions = 0;
  };

  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }
  int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  SchedulerConfig random_config() {
    SchedulerConfig config;
    config.max_slots = static_cast<int32_t>(pick(1, 6));
    config.max_batch_tokens = static_cast<int32_t>(pick(8, 64));
    config.max_prefill_tokens = static_cast<int32_t>(pick(4, 64));
    config.n_stages = static_cast<int32_t>(pick(1, 3));
    config.n_plans_ahead = static_cast<int32_t>(pick(0, 1));
    config.context_length = 120;
    config.vocab_size = fake::kVocabSize;
    config.eos_token_ids = {fake::kEos};
    config.prefix_cache = chance(0.9);
    if (chance(0.3)) {
      config.make_drafter = fake::oracle_maker(random_(), 0.3);
      config.max_guesses = static_cast<int32_t>(pick(1, 6));
    }
    return config;
  }

  SimulatedFaults random_faults() {
    SimulatedFaults faults;
    const auto sometimes = [&](double p) { return chance(0.5) ? p : 0.0; };
    faults.dies_at_plan = sometimes(0.05);
    faults.stops_at_plan = sometimes(0.02);
    faults.deadlocks_at_plan = sometimes(0.02);
    faults.host_goes_at_plan = sometimes(0.02);
    faults.max_losses = static_cast<int>(pick(0, 8));
    faults.kv_is_lost = std::array{0.0, 0.3, 1.0}[static_cast<size_t>(pick(0, 2))];
    if (chance(0.2)) {
      faults.poison = static_cast<RequestId>(pick(1, 5));
      faults.poison_position = static_cast<int32_t>(pick(0, 60));
    }
    faults.launch_fails = sometimes(0.1);
    faults.launch_hangs = sometimes(0.05);
    faults.dies_loading = sometimes(0.1);
    faults.prepare_fails = sometimes(0.1);
    return faults;
  }

  LaunchSpec random_spec(const SchedulerConfig& config) {
    LaunchSpec spec;
    spec.job.layout = {.tp = static_cast<int32_t>(pick(1, 2)), .pp = config.n_stages};
    spec.job.max_plans_in_flight = config.max_plans_in_flight();
    spec.deadlines.max_crashes = chance(0.2) ? 3 : 1000;
    if (chance(0.5)) {
      spec.launcher = LauncherKind::kMpirun;
      spec.hosts = {"a", "b"};
    }
    if (chance(0.6)) {
      spec.deadlines.probe_ms = 300;
      spec.deadlines.return_ms = static_cast<int32_t>(pick(100, 2000));
      const auto valid = [](const Layout& layout) { return layout.tp <= 2 && layout.pp <= 3; };
      for (const Layout& layout : smaller_layouts(spec.job.layout, 1, valid)) {
        spec.smaller_layouts.push_back({.layout = layout});
      }
    }
    return spec;
  }

  void plan_clients() {
    const int64_t n_clients = pick(1, 10);
    for (int64_t i = 0; i < n_clients; ++i) {
      Client& client = clients_.emplace_back();
      GenerateRequest& request = client.request;
      request = fake::request_of(static_cast<int32_t>(pick(1, 70)),
                                 chance(0.1) ? 0 : static_cast<int32_t>(pick(1, 40)), random_());
      request.want_embedding = request.max_new_tokens == 0 && chance(0.7);
      if (i > 0 && chance(0.5)) begin_like(request, clients_[static_cast<size_t>(pick(0, i - 1))]);
      request.ignore_eos = chance(0.7);
      request.want_prompt_logprobs = chance(0.2);
      if (chance(0.3)) request.rules = fake::some_rules(random_());
      if (chance(0.4)) request.priority = static_cast<int32_t>(pick(-1, 1));
      request.tenant = std::array{"", "a", "b", "c"}[static_cast<size_t>(pick(0, 3))];
      if (chance(0.3)) {
        const int64_t length = pick(0, 40);
        request.grammar = {.tag = "fake", .text = std::to_string(length)};
        if (chance(0.1)) request.grammar.text += "!" + std::to_string(pick(0, length));
      }
      clock_.after(pick(0, 3000), [this, &client] { submit(client); });
      if (chance(0.1)) {
        clock_.after(pick(0, 6000), [this, &client] {
          boost::asio::post(*io_, [this, &client] { cancel(client); });
        });
      }
    }
  }

  // They are a tenant's own, all of one priority, worse than that of anybody else here.
  void plan_crowd(int32_t max_slots) {
    constexpr int kInCrowd = 25;
    crowd_.first = clients_.size();
    for (int i = 0; i <= kInCrowd; ++i) {
      Client& client = clients_.emplace_back();
      client.request = fake::request_of(static_cast<int32_t>(pick(1, 30)),
                                        static_cast<int32_t>(pick(1, 10)), random_());
      client.request.priority = 2;
      client.request.tenant = i < kInCrowd ? "crowd" : "other";
      client.request.cache_salt = client.request.tenant;
      clock_.after(i < kInCrowd ? 0 : pick(50, 400), [this, &client] { submit(client); });
    }
    crowd_.other = &clients_.back();
    // Those that had a slot when it came, one whose turn is as good, and those that get the slots
    // of others beside it, before its prompt is computed: at most as many again.
    crowd_.most_before = 2 * max_slots + 1;
  }

  int n_of_crowd_with_tokens() const {
    const auto begin = clients_.begin() + static_cast<std::ptrdiff_t>(crowd_.first);
    return static_cast<int>(std::count_if(begin, clients_.end(), [this](const Client& client) {
      return &client != crowd_.other && client.has_token();
    }));
  }

  // Unless the group was lost meanwhile: then who waits again goes on first. Or it was preempted
  // in the midst of its prompt: then those are first that were served less by then.
  void other_has_its_turn() {
    if (crowd_.n_at_submit < 0 || groups_[0]->epoch() != crowd_.at_epoch) return;
    if (n_preemptions_ != crowd_.n_preemptions) return;
    EXPECT_LE(n_of_crowd_with_tokens() - crowd_.n_at_submit, crowd_.most_before)
        << "it waited for the crowd";
    ++coverage_.n_crowded;
  }

  void begin_like(GenerateRequest& request, const Client& other) {
    const std::vector<int32_t>& tokens = other.request.prompt_ids;
    request.prompt_ids.resize(std::max(request.prompt_ids.size(), tokens.size()));
    std::copy(tokens.begin(), tokens.end(), request.prompt_ids.begin());
  }

  void plan_pushes() {
    const int64_t n_pushes = pick(1, 6);
    for (int64_t i = 0; i < n_pushes; ++i) {
      clock_.after(pick(0, 6000), [this, i] {
        ++n_pushes_open_;
        core_->push({.path = "w", .fingerprint = static_cast<uint64_t>(i) + 100},
                    {.on_progress = [](uint64_t, uint64_t) {},
                     .on_end =
                         [this](const std::string& failure, int32_t) {
                           --n_pushes_open_;
                           ++(failure.empty() ? coverage_.n_pushed : coverage_.n_push_failures);
                         }});
      });
    }
  }

  // Each keeps the requests, and ends.
  void plan_naps() {
    const int64_t n_naps = pick(1, 3);
    for (int64_t i = 0; i < n_naps; ++i) {
      ++n_naps_open_;
      clock_.after(pick(0, 6000), [this] {
        core_->sleep(SleepMode::kKeep, [this](const std::string& failure) {
          coverage_.n_asleep += failure.empty() ? 1 : 0;
          clock_.after(pick(0, 2000), [this] { wake_up(); });
        });
      });
    }
  }
  void wake_up() {
    core_->wake_up([this](const std::string& failure) {
      --n_naps_open_;
      coverage_.n_woken += failure.empty() ? 1 : 0;
    });
  }

  void submit(Client& client) {
    GenerateRequest request = client.request;
    request.weights = core_->weights();
    client.generation = request.weights->generation;
    if (&client == crowd_.other && groups_[0]->status() == GroupStatus::kServing) {
      crowd_.n_at_submit = n_of_crowd_with_tokens();
      crowd_.at_epoch = groups_[0]->epoch();
      crowd_.n_preemptions = n_preemptions_;
    }
    const Result<RequestId> id = core_->submit(request, [this, &client](GenerateEvent&& event) {
      EXPECT_FALSE(client.cancelled) << "an event after cancel";
      if (event.finish != FinishReason::kNone)
        coverage_.n_on_old_weights += client.generation != core_->weights()->generation ? 1 : 0;
      const bool waited = !client.has_token();
      client.heard.hear(std::move(event));
      if (&client == crowd_.other && waited && client.has_token()) other_has_its_turn();
    });
    client.refused = !id;
    if (!id) client.heard.error = id.error().message;
    if (id) client.id = *id;
  }

  // On the service's thread: no event comes after it.
  void cancel(Client& client) {
    if (client.id == 0 || client.heard.finish != FinishReason::kNone) return;
    client.cancelled = true;
    core_->cancel(client.id, FinishReason::kCancelled);
  }

  bool all_ended() const {
    return std::all_of(clients_.begin(), clients_.end(), [](const Client& client) {
      return client.refused || client.cancelled || client.heard.finish != FinishReason::kNone;
    });
  }

  // What is on its way arrives; groups that are being launched come up.
  void settle() {
    const int64_t end = clock_.now() + 40000;
    while (clock_.now() < end && clock_.step()) io_->poll();
  }

  void check() {
    EXPECT_EQ(n_pushes_open_, 0) << "a push never ended";
    for (const SimulatedGroup* group : groups_) {
      if (group->status() != GroupStatus::kServing) continue;
      EXPECT_EQ(group->n_generations(), 1U) << "weights that nobody needs are kept";
    }
    bool any_broken = false;
    for (const SimulatedGroup* group : groups_)
      any_broken |= group->status() == GroupStatus::kBroken;
    for (const ReplicaSnapshot& replica : snapshot()) {
      EXPECT_EQ(replica.n_running, 0);
      EXPECT_EQ(replica.n_waiting, 0);
      EXPECT_EQ(replica.n_unheld_kv_blocks, replica.n_kv_blocks) << "a KV block leaked";
    }
    for (const Client& client : clients_) {
      SCOPED_TRACE(client.id);
      if (client.refused) {
        const bool too_long = is_too_long(client);
        EXPECT_TRUE(any_broken || too_long) << "refused for no reason";
        ++(too_long ? coverage_.n_too_long : coverage_.n_given_up);
        continue;
      }
      const fake::Transcript want = fake::undisturbed(client.request, client.generation);
      coverage_.n_guided += want.finish == FinishReason::kStop && client.request.ignore_eos ? 1 : 0;
      if (want.finish == FinishReason::kError && client.heard.error == "the grammar cannot go on") {
        ++coverage_.n_failed_grammars;
        EXPECT_EQ(client.heard.token_ids, want.token_ids);
      } else if (client.cancelled || client.heard.finish == FinishReason::kError) {
        const auto& got = client.heard.token_ids;
        ASSERT_LE(got.size(), want.token_ids.size());
        EXPECT_TRUE(std::equal(got.begin(), got.end(), want.token_ids.begin()));
        count_unfinished(client, any_broken);
      } else {
        ++coverage_.n_finished;
        fake::expect_equal(client.heard, want);
      }
    }
  }

  // For what the ranks of a smaller layout hold.
  bool is_too_long(const Client& client) const {
    return coverage_.groups.n_smaller > n_smaller_before_ &&
           client.heard.error.find("KV blocks and there are") != std::string::npos;
  }

  void count_unfinished(const Client& client, bool any_broken) {
    const bool twice = client.heard.error.find("failed twice") != std::string::npos;
    if (client.cancelled) {
      ++coverage_.n_cancelled;
    } else if (twice) {
      // One that went elsewhere before its group came back stays suspect: a loss there is its
      // second.
      if (groups_.size() == 1) {
        EXPECT_GE(groups_[0]->n_blamed(), 2) << "ended for losses that no rank is to blame for";
      }
      coverage_.n_poisoned += client.id == poison_ ? 1 : 0;
    } else if (is_too_long(client)) {
      ++coverage_.n_too_long;
    } else {
      EXPECT_TRUE(any_broken) << client.heard.error;
      ++coverage_.n_given_up;
    }
  }

  // replicas() asks the service's thread, which is this one.
  std::vector<ReplicaSnapshot> snapshot() {
    std::vector<ReplicaSnapshot> taken;
    boost::asio::post(*io_, [&] { taken = core_->replicas(); });
    io_->poll();
    return taken;
  }

  std::mt19937_64 random_;
  Coverage& coverage_;
  SimulatedClock clock_;
  int32_t n_replicas_ = 1;
  const int n_smaller_before_ = coverage_.groups.n_smaller;
  RequestId poison_ = 0;
  boost::asio::io_context* io_ = nullptr;
  std::vector<SimulatedGroup*> groups_;
  std::deque<Client> clients_;
  Crowd crowd_;
  int n_pushes_open_ = 0;
  int n_naps_open_ = 0;
  int n_preemptions_ = 0;
  std::unique_ptr<InferenceCore> core_;
};

TEST(Simulation, NothingIsLostRepeatedOrLeaked) {
  // TRIREME_SIMULATIONS: more of them, by hand.
  const char* asked = std::getenv("TRIREME_SIMULATIONS");
  const uint64_t n_runs = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 1500;
  Coverage coverage;
  for (uint64_t seed = 1; seed <= n_runs; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(seed, coverage).run();
    if (HasFailure()) return;
  }
  EXPECT_GT(coverage.groups.n_losses, static_cast<int>(n_runs / 2));
  EXPECT_GT(coverage.groups.n_failed_launches, static_cast<int>(n_runs / 50));
  EXPECT_GT(coverage.groups.n_kept, static_cast<int>(n_runs / 10));
  EXPECT_GT(coverage.groups.n_stale_results, 0);
  EXPECT_GT(coverage.groups.n_smaller, static_cast<int>(n_runs / 20));
  EXPECT_GT(coverage.groups.n_returned, static_cast<int>(n_runs / 20));
  EXPECT_GT(coverage.n_too_long, 0);
  EXPECT_GT(coverage.n_finished, static_cast<int>(n_runs * 3));
  EXPECT_GT(coverage.n_cancelled, 0);
  EXPECT_GT(coverage.n_given_up, 0);
  EXPECT_GT(coverage.n_poisoned, 0);
  EXPECT_GT(coverage.n_cached, static_cast<int64_t>(n_runs * 20));
  EXPECT_GT(coverage.n_guessed_right, static_cast<int64_t>(n_runs * 2));
  EXPECT_GT(coverage.n_guided, static_cast<int>(n_runs / 10));
  EXPECT_GT(coverage.n_failed_grammars, static_cast<int>(n_runs / 50));
  EXPECT_GT(coverage.n_crowded, static_cast<int>(n_runs / 50));
  EXPECT_GT(coverage.n_pushed, static_cast<int>(n_runs / 4));
  EXPECT_GT(coverage.n_push_failures, static_cast<int>(n_runs / 10));
  EXPECT_GT(coverage.n_on_old_weights, static_cast<int>(n_runs / 10));
  EXPECT_GT(coverage.n_asleep, static_cast<int>(n_runs / 10));
  EXPECT_GT(coverage.n_woken, static_cast<int>(n_runs / 10));
  std::printf(
      "%d requests finished, %d cancelled, %d given up; %d losses, %d failed launches, "
      "%d times KV was kept, %d times a layout was smaller and %d times larger than the last; "
      "%d pushes, %d without success, %d requests ended on the weights before; asleep %d times; "
      "%.0f hours of virtual time\n",
      coverage.n_finished, coverage.n_cancelled, coverage.n_given_up, coverage.groups.n_losses,
      coverage.groups.n_failed_launches, coverage.groups.n_kept, coverage.groups.n_smaller,
      coverage.groups.n_returned, coverage.n_pushed, coverage.n_push_failures,
      coverage.n_on_old_weights, coverage.n_asleep,
      static_cast<double>(coverage.virtual_ms) / 3.6e6);
}

}  // namespace
}  // namespace trireme
