#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "comm/control/build_id.h"
#include "comm/control/control_codec.h"
#include "comm/control/dial.h"
#include "comm/control/heartbeat_datagram.h"
#include "comm/control/tls_channel.h"
#include "coordinator/cluster/group.h"

namespace trireme {

inline bool process_exists(int64_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(status, text)) return false;
  return text.find(") Z ") == std::string::npos;
}

inline uint16_t free_port() {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  socklen_t size = sizeof(address);
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

class ClusterProcessGroup : public testing::Test {
 protected:
  ClusterProcessGroup() {
    folder_ = (std::filesystem::temp_directory_path() /
               ("trireme_group_test_" + std::to_string(getpid())))
                  .string();
    spec_.job.layout = {.tp = 2, .pp = 1};
    spec_.job.hidden_size = 64;
    spec_.job.max_batch_tokens = 16;
    spec_.executable = TRIREME_FAKE_WORKER;
    spec_.secret = "the secret of " + std::to_string(getpid());
    spec_.run_folder = folder_;
    // Generous where the test does not wait for it: the machine may be busy.
    spec_.deadlines.heartbeat_ms = 5000;
    spec_.deadlines.launch_ms = 30000;
  }

  ~ClusterProcessGroup() override {
    group_.reset();
    for (const int64_t pid : pids_) EXPECT_FALSE(process_exists(pid)) << pid;
    EXPECT_TRUE(!std::filesystem::exists(folder_) || std::filesystem::is_empty(folder_));
    std::filesystem::remove_all(folder_);
    unsetenv("FAKE_WORKER");
  }

  void start() {
    Group::Events events;
    events.on_serving = [this](const GroupCapacity& capacity) {
      ++n_serving_;
      capacity_ = capacity;
      for (const RankInfo& rank : capacity.ranks) pids_.insert(rank.pid);
    };
    events.on_result = [this](StepResult&& result) { results_.push_back(std::move(result)); };
    events.on_lost = [this](const std::string& cause, const std::string& detail) {
      lost_.push_back(cause);
      details_.push_back(detail);
    };
    events.on_prepared = [this](uint64_t generation, const std::string& failure) {
      prepared_.emplace_back(generation, failure);
    };
    events.on_broken = [this](const std::string& error) { broken_ = error; };
    events.on_loading = [this](uint64_t, uint64_t total) { loading_total_ = total; };
    group_ = make_process_group(io_, spec_, std::move(events));
    group_->start();
  }

  bool run_until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(100));
    }
    return true;
  }

  void serve() {
    start();
    ASSERT_TRUE(run_until([this] { return n_serving_ == 1 || !broken_.empty(); }));
    ASSERT_EQ(broken_, "");
  }

  int32_t step(int32_t token) {
    const size_t n_before = results_.size();
    group_->send(plan_of(token));
    if (!run_until([&] { return results_.size() > n_before || !details_.empty(); })) return -1;
    if (results_.size() == n_before) {
      ADD_FAILURE() << "lost: " << details_.back();
      return -1;
    }
    EXPECT_EQ(results_.back().epoch, group_->epoch());
    return results_.back().sequences.at(0).drawn.at(0).token_id;
  }

  static StepPlan plan_of(int32_t token) {
    StepPlan plan;
    plan.step_id = 1;
    plan.sequences.emplace_back();
    plan.sequences[0].input_ids = {token};
    return plan;
  }

  void stop() {
    bool stopped = false;
    group_->stop([&stopped] { stopped = true; });
    EXPECT_TRUE(run_until([&stopped] { return stopped; }));
  }

  // Serving again in a later epoch, and answering.
  void expect_recovery(uint64_t lost_epoch) {
    ASSERT_TRUE(run_until([this] { return n_serving_ == 2; }));
    EXPECT_GT(group_->epoch(), lost_epoch);
    details_.clear();
    EXPECT_EQ(step(500), 501);
  }

  // Connects to the control port, sends `bytes`, and gives what comes back until the end.
  std::string strange_visit(const std::string& bytes) {
    auto fd = dial({.host = "127.0.0.1", .port = std::to_string(spec_.control_port)},
                   std::chrono::steady_clock::now() + std::chrono::seconds(10));
    EXPECT_TRUE(fd.ok());
    EXPECT_TRUE(send_all((*fd).get(), bytes));
    std::string back;
    EXPECT_TRUE(run_until([&] {
      char chunk[4096];
      const ssize_t n = recv((*fd).get(), chunk, sizeof(chunk), MSG_DONTWAIT);
      if (n > 0) back.append(chunk, static_cast<size_t>(n));
      return n == 0 || (n < 0 && errno == ECONNRESET);
    }));
    return back;
  }

  std::string folder_;
  LaunchSpec spec_;
  boost::asio::io_context io_;
  std::unique_ptr<Group> group_;
  int n_serving_ = 0;
  GroupCapacity capacity_;
  std::vector<StepResult> results_;
  std::vector<std::string> lost_;
  std::vector<std::string> details_;
  std::string broken_;
  uint64_t loading_total_ = 0;
  std::vector<std::pair<uint64_t, std::string>> prepared_;
  std::set<int64_t> pids_;
};

}  // namespace trireme
