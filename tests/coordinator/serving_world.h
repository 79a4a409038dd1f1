#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/serving/inference_core.h"
#include "tests/coordinator/serving_bench.h"
#include "tests/coordinator/serving_fake_group.h"

namespace trireme::fake {

// Past it a test fails instead of hanging; no outcome depends on it.
constexpr std::chrono::seconds kPatience(60);

// A core over fake groups, with what every client heard.
struct World {
  explicit World(std::vector<GroupScript> group_scripts, ServingObserver observer = {},
                 int32_t max_waiting = 1000, int n_mask_threads = 0,
                 const std::function<void(InferenceCoreOptions&)>& change = {})
      : scripts(std::move(group_scripts)) {
    InferenceCoreOptions options;
    options.guides = std::make_shared<Guides>();
    options.n_mask_threads = n_mask_threads;
    options.scheduler = small_config();
    options.scheduler.max_batch_tokens = 64;
    options.n_replicas = static_cast<int32_t>(scripts.size());
    options.max_waiting = max_waiting;
    if (change) change(options);
    ReplicaListener listener;
    listener.on_broken = [this](int, const std::string&) { note(n_broken); };
    listener.on_lost = [this](int, const std::string&, const std::string&) { note(n_lost); };
    listener.on_serving = [this](int, const GroupCapacity&) { note(n_up); };
    core = std::make_unique<InferenceCore>(
        options,
        [&](boost::asio::io_context& context, int replica, Group::Events events) {
          io = &context;
          auto group = std::make_unique<FakeGroup>(context, scripts[static_cast<size_t>(replica)],
                                                   std::move(events));
          const std::lock_guard lock(mutex);
          groups.push_back(group.get());
          changed.notify_all();
          return group;
        },
        std::move(observer), std::move(listener));
    core->start();
  }
  ~World() { core->stop(); }

  void note(int& counter) {
    const std::lock_guard lock(mutex);
    ++counter;
    changed.notify_all();
  }
  Result<RequestId> submit(const GenerateRequest& request) {
    // Events may come before submit returns: they find their transcript by index, not by id.
    size_t index = 0;
    {
      const std::lock_guard lock(mutex);
      index = heard.size();
      heard.emplace_back();
      requests.push_back(request);
    }
    Result<RequestId> id = core->submit(request, [this, index](GenerateEvent&& event) {
      const std::lock_guard lock(mutex);
      heard[index].hear(std::move(event));
      changed.notify_all();
    });
    if (!id) {
      const std::lock_guard lock(mutex);
      heard[index].finish = FinishReason::kCancelled;
    }
    return id;
  }
  template <typename Condition>
  void wait(const Condition& condition) {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, kPatience, condition));
  }
  void wait_until_all_ended() {
    wait([this] {
      return std::all_of(heard.begin(), heard.end(),
                         [](const Transcript& t) { return t.finish != FinishReason::kNone; });
    });
  }
  // Runs on the service's thread and waits for it.
  void on_thread(const std::function<void()>& what) {
    std::promise<void> done;
    boost::asio::post(*io, [&] {
      what();
      done.set_value();
    });
    ASSERT_EQ(done.get_future().wait_for(kPatience), std::future_status::ready);
  }
  void expect_all_undisturbed() {
    for (size_t i = 0; i < heard.size(); ++i) {
      SCOPED_TRACE(i);
      expect_equal(heard[i], undisturbed(requests[i]));
    }
  }
  // Lets the service's thread do what is queued, and what that queues in turn.
  void settle() {
    for (int i = 0; i < 3; ++i) on_thread([] {});
  }
  void expect_nothing_held() {
    const auto idle = [](const ReplicaSnapshot& replica) {
      return replica.n_running + replica.n_waiting == 0 &&
             replica.n_unheld_kv_blocks == replica.n_kv_blocks;
    };
    // A cancelled request is held until its plan is answered, a few turns of the thread later.
    for (int turn = 0; turn < 1000; ++turn) {
      const std::vector<ReplicaSnapshot> replicas = core->replicas();
      if (std::all_of(replicas.begin(), replicas.end(), idle)) return;
      on_thread([] {});
    }
    FAIL() << "a request or a KV block is still held";
  }

  std::vector<GroupScript> scripts;  // of the groups, and of those to come
  boost::asio::io_context* io = nullptr;
  std::vector<FakeGroup*> groups;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Transcript> heard;
  std::vector<GenerateRequest> requests;
  int n_lost = 0;
  int n_broken = 0;
  int n_up = 0;
  std::unique_ptr<InferenceCore> core;
};

}  // namespace trireme::fake
