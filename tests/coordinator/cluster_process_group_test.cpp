// A whole group of real processes (fake_worker: ranks without a model) under every fault that the
// supervisor must see.
#include <gmock/gmock.h>

#include "tests/coordinator/process_group_fixture.h"

namespace trireme {
namespace {

using testing::HasSubstr;

TEST_F(ClusterProcessGroup, ServesAndStopsWithoutATrace) {
  serve();
  EXPECT_EQ(capacity_.kv_blocks, 10);
  EXPECT_EQ(capacity_.ranks.size(), 2U);
  EXPECT_EQ(loading_total_, 2000U);
  EXPECT_EQ(group_->n_ranks_alive(), 2);
  for (int32_t token = 0; token < 50; ++token) EXPECT_EQ(step(token), token + 1);
  stop();
  for (const int64_t pid : pids_) EXPECT_FALSE(process_exists(pid));
  EXPECT_EQ(group_->status(), GroupStatus::kStopped);
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(broken_, "");
}

TEST_F(ClusterProcessGroup, StoppedItHasNoMemoryAndStartsAgain) {
  const auto n_kv_memories = [] {
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code ignored;  // the listing's own descriptor
      const auto target = std::filesystem::read_symlink(entry.path(), ignored).string();
      n += target.find("memfd:trireme") != std::string::npos ? 1 : 0;
    }
    return n;
  };
  serve();
  EXPECT_GE(n_kv_memories(), 2);
  const uint64_t epoch = group_->epoch();
  stop();
  EXPECT_EQ(group_->status(), GroupStatus::kStopped);
  for (const int64_t pid : pids_) EXPECT_FALSE(process_exists(pid)) << pid;
  EXPECT_EQ(n_kv_memories(), 0);
  group_->start();
  expect_recovery(epoch);
  EXPECT_TRUE(lost_.empty());
}

TEST_F(ClusterProcessGroup, AKilledRankIsLostAndTheGroupServesAgain) {
  serve();
  EXPECT_EQ(step(1), 2);
  const uint64_t epoch = group_->epoch();
  const std::set<int64_t> first = pids_;
  const auto killed = std::chrono::steady_clock::now();
  ASSERT_EQ(kill(static_cast<pid_t>(capacity_.ranks[1].pid), SIGKILL), 0);
  ASSERT_TRUE(run_until([this] { return !lost_.empty(); }));
  RecordProperty("detected_us",
                 static_cast<int>(std::chrono::duration_cast<std::chrono::microseconds>(
                                      std::chrono::steady_clock::now() - killed)
                                      .count()));
  EXPECT_TRUE(lost_[0] == "socket" || lost_[0] == "rank_exit") << lost_[0];
  EXPECT_THAT(details_[0], HasSubstr("rank 1"));
  expect_recovery(epoch);
  for (const int64_t pid : first) EXPECT_FALSE(process_exists(pid));
}

TEST_F(ClusterProcessGroup, AStoppedRankIsLostByItsSilence) {
  spec_.deadlines.heartbeat_ms = 400;
  serve();
  const uint64_t epoch = group_->epoch();
  ASSERT_EQ(kill(static_cast<pid_t>(capacity_.ranks[0].pid), SIGSTOP), 0);
  ASSERT_TRUE(run_until([this] { return !lost_.empty(); }));
  EXPECT_EQ(lost_[0], "heartbeat");
  ASSERT_TRUE(run_until([this] { return n_serving_ == 2; }));
  EXPECT_GT(group_->epoch(), epoch);
}

TEST_F(ClusterProcessGroup, ADeadlockIsFoundASlowStepIsNot) {
  spec_.job.model_path = "slow";
  serve();
  EXPECT_EQ(step(1), 2);
  EXPECT_TRUE(lost_.empty());
  stop();

  n_serving_ = 0;
  spec_.job.model_path = "deadlock";
  serve();
  group_->send(plan_of(1));
  ASSERT_TRUE(run_until([this] { return !lost_.empty(); }));
  EXPECT_EQ(lost_[0], "stalled");
  EXPECT_THAT(details_[0], HasSubstr("collective 3"));
}

TEST_F(ClusterProcessGroup, ACrashLoopEndsInTheBreaker) {
  spec_.job.model_path = "die-in-step";
  spec_.deadlines.max_crashes = 3;
  start();
  int n_sent = 0;
  ASSERT_TRUE(run_until([&] {
    if (n_serving_ > n_sent) {
      ++n_sent;
      group_->send(plan_of(1));
    }
    return !broken_.empty();
  }));
  EXPECT_EQ(lost_.size(), 3U);
  EXPECT_THAT(broken_, HasSubstr("3 crashes"));
  EXPECT_EQ(group_->status(), GroupStatus::kBroken);
  stop();
}

TEST_F(ClusterProcessGroup, AFirstLaunchThatFailsNamesTheCause) {
  setenv("FAKE_WORKER", "exit", 1);
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("the fake cannot start; mend the fake"));

  unsetenv("FAKE_WORKER");
  broken_.clear();
  spec_.job.model_path = "no-room";
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("no room for the weights; bring more"));

  broken_.clear();
  spec_.executable = "/nonexistent/trireme";
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("/nonexistent/trireme: No such file"));
  EXPECT_TRUE(lost_.empty());
}

TEST_F(ClusterProcessGroup, LaunchesAndLoadsThatHangHaveDeadlines) {
  setenv("FAKE_WORKER", "no-hello", 1);
  spec_.deadlines.launch_ms = 300;
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("2 of 2 ranks (0, 1) did not come up"));

  unsetenv("FAKE_WORKER");
  broken_.clear();
  spec_.deadlines.launch_ms = 30000;
  spec_.deadlines.load_ms = 300;
  spec_.job.model_path = "load-hang";
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("no progress loading"));
}

TEST_F(ClusterProcessGroup, StrangersOnTheControlPortChangeNothing) {
  spec_.control_port = free_port();
  serve();
  RankHello hello;
  hello.world_size = 2;
  hello.epoch = group_->epoch();
  hello.secret = spec_.secret;
  hello.build = build_id();
  const auto visit = [&](auto change) {
    RankHello changed = hello;
    change(changed);
    return strange_visit(encode_frame(changed));
  };
  EXPECT_EQ(strange_visit("GET / HTTP/1.1\r\n\r\n"), "");               // an oversize frame
  EXPECT_EQ(strange_visit(std::string("\x08\0\0\0garbage!", 12)), "");  // not protobuf
  EXPECT_EQ(strange_visit(encode_frame(StepPlan())), "");               // not a hello
  EXPECT_THAT(visit([](RankHello& h) { h.secret = "wrong"; }), HasSubstr("TRIREME_SECRET"));
  EXPECT_THAT(visit([](RankHello& h) { h.secret.back() ^= 1; }), HasSubstr("TRIREME_SECRET"));
  EXPECT_THAT(visit([](RankHello& h) { h.build = "0.0.0"; }), HasSubstr("one version"));
  EXPECT_THAT(visit([](RankHello& h) { h.epoch -= 1; }), HasSubstr("not the present launch"));
  EXPECT_THAT(visit([](RankHello& h) { h.world_size = 7; }), HasSubstr("one of 7 ranks"));
  EXPECT_THAT(visit([](RankHello&) {}), HasSubstr("already connected"));
  EXPECT_EQ(step(7), 8);
  EXPECT_TRUE(lost_.empty());
  EXPECT_EQ(n_serving_, 1);
}

TEST_F(ClusterProcessGroup, StrangeDatagramsDoNothing) {
  spec_.control_port = free_port();
  serve();
  const UniqueFd stranger(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(spec_.control_port);
  const auto send = [&](const std::string& datagram) {
    EXPECT_EQ(sendto(stranger.get(), datagram.data(), datagram.size(), 0,
                     reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              static_cast<ssize_t>(datagram.size()));
    io_.restart();
    io_.poll();
  };
  for (int i = 0; i < 100; ++i) {
    send("");
    send(std::string(static_cast<size_t>(100 * i), 'x'));
    send(seal(heartbeat_key(random_salt(), spec_.secret), Heartbeat{.number = ~0ULL}));
  }
  EXPECT_EQ(step(7), 8);
  EXPECT_TRUE(lost_.empty());
}

TEST_F(ClusterProcessGroup, UnderTlsOnlyRanksWithTheSecretAreHeard) {
  spec_.control_port = free_port();
  spec_.control_tls = true;
  serve();
  RankHello hello;
  hello.epoch = group_->epoch();
  hello.world_size = 2;
  hello.secret = spec_.secret;
  hello.build = build_id();
  // In clear even the right secret gets no frame of an answer: an alert at most.
  EXPECT_LT(strange_visit(encode_frame(hello)).size(), 16U);
  EXPECT_LT(strange_visit("GET / HTTP/1.1\r\n\r\n").size(), 16U);
  TlsChannel guesser(TlsContext::client_by_secret(spec_.secret + "?"));
  EXPECT_TRUE(guesser.shake_hands());
  EXPECT_LT(strange_visit(guesser.take_output()).size(), 16U);
  EXPECT_EQ(step(7), 8);
  EXPECT_TRUE(lost_.empty());
  const uint64_t epoch = group_->epoch();
  ASSERT_EQ(kill(static_cast<pid_t>(capacity_.ranks[1].pid), SIGKILL), 0);
  expect_recovery(epoch);
  stop();
}

TEST_F(ClusterProcessGroup, ManySilentStrangersDoNotKeepRanksOut) {
  spec_.control_port = free_port();
  serve();
  std::vector<UniqueFd> crowd;
  for (int i = 0; i < 200; ++i) {
    auto fd = dial({.host = "127.0.0.1", .port = std::to_string(spec_.control_port)},
                   std::chrono::steady_clock::now() + std::chrono::seconds(10));
    ASSERT_TRUE(fd.ok());
    crowd.push_back(std::move(*fd));
    io_.restart();
    io_.poll();
  }
  const uint64_t epoch = group_->epoch();
  ASSERT_EQ(kill(static_cast<pid_t>(capacity_.ranks[0].pid), SIGKILL), 0);
  expect_recovery(epoch);
}

TEST_F(ClusterProcessGroup, APortInUseIsNamed) {
  const UniqueFd taken(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(taken.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(taken.get(), 1), 0);
  socklen_t size = sizeof(address);
  getsockname(taken.get(), reinterpret_cast<sockaddr*>(&address), &size);
  spec_.control_port = ntohs(address.sin_port);
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("Address already in use; choose another port"));
}

TEST_F(ClusterProcessGroup, APortInUseForDatagramsCostsOnlyThem) {
  const UniqueFd taken(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  spec_.control_port = free_port();
  address.sin_port = htons(spec_.control_port);
  ASSERT_EQ(bind(taken.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  serve();
  EXPECT_EQ(step(7), 8);
}

TEST_F(ClusterProcessGroup, RanksThatDoNotEndAreKilled) {
  spec_.job.model_path = "never-end";
  spec_.deadlines.stop_ms = 200;
  serve();
  stop();
  for (const int64_t pid : pids_) EXPECT_FALSE(process_exists(pid));
}

TEST_F(ClusterProcessGroup, DestroyingAServingGroupLeavesNothing) { serve(); }

// The coordinator itself is killed: a process of this test plays it.
TEST_F(ClusterProcessGroup, RanksDoNotOutliveTheCoordinator) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t coordinator = fork();
  ASSERT_GE(coordinator, 0);
  if (coordinator == 0) {
    start();
    run_until([this] { return n_serving_ == 1; });
    int64_t pids[2] = {0, 0};
    for (size_t r = 0; r < capacity_.ranks.size(); ++r) pids[r] = capacity_.ranks[r].pid;
    if (write(ends[1], pids, sizeof(pids)) < 0) _exit(1);
    run_until([] { return false; });
    _exit(0);
  }
  int64_t pids[2] = {0, 0};
  ASSERT_EQ(read(ends[0], pids, sizeof(pids)), static_cast<ssize_t>(sizeof(pids)));
  close(ends[0]);
  close(ends[1]);
  ASSERT_TRUE(pids[0] > 0 && process_exists(pids[0]) && process_exists(pids[1]));
  ASSERT_EQ(kill(coordinator, SIGKILL), 0);
  ASSERT_EQ(waitpid(coordinator, nullptr, 0), coordinator);
  EXPECT_TRUE(run_until([&] { return !process_exists(pids[0]) && !process_exists(pids[1]); }));
  std::filesystem::remove_all(folder_);  // the dead coordinator's: a run folder's owner clears it
}

TEST_F(ClusterProcessGroup, PreparesWeightsOnEveryRankOrSaysWhyNot) {
  serve();
  const auto ask = [this](const std::string& path, uint64_t generation) {
    group_->prepare({.generation = generation, .path = path, .fingerprint = 5});
    EXPECT_TRUE(run_until([&] { return prepared_.size() == generation; }));
    EXPECT_EQ(prepared_.back().first, generation);
    if (!prepared_.back().second.empty()) group_->drop(generation);
    return prepared_.back().second;
  };
  EXPECT_THAT(ask("damaged", 1), HasSubstr("a leaf is damaged; make it again"));
  EXPECT_THAT(ask("other", 2), HasSubstr("has weights 0000000000000006 at other"));
  EXPECT_EQ(ask("good", 3), "");
  group_->commit({.generation = 3, .path = "good", .fingerprint = 5});
  EXPECT_EQ(step(1), 2);
  EXPECT_TRUE(lost_.empty());
  stop();
}

TEST_F(ClusterProcessGroup, ARankThatDiesOfAnOrderIsALoss) {
  spec_.job.model_path = "prepare-die";
  serve();
  group_->prepare({.generation = 1, .path = "good", .fingerprint = 5});
  ASSERT_TRUE(run_until([this] { return n_serving_ == 2; }));
  EXPECT_EQ(lost_.size(), 1U);
  EXPECT_TRUE(prepared_.empty());
  stop();
}

}  // namespace
}  // namespace trireme
