// A rank's side against a coordinator made of a bare socket.
#include "comm/control/rank_link.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <variant>

#include "comm/control/control_codec.h"
#include "comm/control/dial.h"
#include "comm/control/frame_reader.h"
#include "comm/control/tls_channel.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class Listener {
 public:
  // On 127.0.0.`host`: those that dial in come from 127.0.0.1, as if from another host than 2.
  explicit Listener(uint32_t host = 1) : host_(host), fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host);
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd_.get(), 8), 0);
    socklen_t size = sizeof(address);
    getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  std::string address() const {
    return fmt::format("{}:{}", host_ == 1 ? "localhost" : fmt::format("127.0.0.{}", host_), port_);
  }
  UniqueFd accept_one() const { return UniqueFd(accept(fd_.get(), nullptr, nullptr)); }

 private:
  uint32_t host_;
  UniqueFd fd_;
  uint16_t port_ = 0;
};

// The coordinator's end of one connection.
class Side {
 public:
  explicit Side(UniqueFd fd, bool tls = false) : fd_(std::move(fd)) {
    if (tls) shake_hands();
  }
  // A new TLS session on the connection.
  void renew() {
    send(ControlRenew{});
    ASSERT_TRUE(next<ControlRenew>());
    EXPECT_TRUE(send_all(fd_.get(), {&kRenewByte, 1}));
    shake_hands();
  }
  template <typename T>
  void send(const T& frame) {
    const std::string bytes = encode_frame(frame);
    EXPECT_TRUE(send_all(fd_.get(), tls_ ? tls_->encrypt(bytes) : bytes));
  }
  // The next frame that is a T; nullopt at the end of the connection.
  template <typename T>
  std::optional<T> next() {
    for (;;) {
      std::span<const char> payload;
      if (reader_.next(payload) == FrameReader::Next::kFrame) {
        Result<ControlFrame> frame = decode_frame(payload);
        EXPECT_TRUE(frame.ok());
        if (auto* wanted = std::get_if<T>(&*frame)) return std::move(*wanted);
        continue;
      }
      const std::span<char> room = reader_.prepare();
      size_t n_bytes = 0;
      if (tls_) {
        const TlsChannel::Read read = tls_->read(room, n_bytes);
        if (read == TlsChannel::Read::kFailed) return std::nullopt;
        if (read == TlsChannel::Read::kNeedMore && !receive()) return std::nullopt;
      } else {
        const ssize_t n = recv(fd_.get(), room.data(), room.size(), 0);
        if (n <= 0) return std::nullopt;
        n_bytes = static_cast<size_t>(n);
      }
      reader_.commit(n_bytes);
    }
  }
  void hang_up() { fd_.reset(); }

 private:
  void shake_hands() {
    tls_.emplace(TlsContext::server_by_secret("s"));
    while (!tls_->established() && tls_->problem().empty()) {
      if (!receive()) return;
      tls_->shake_hands();
      EXPECT_TRUE(send_all(fd_.get(), tls_->take_output()));
    }
  }
  // Encrypted bytes, few at a time: records come in pieces.
  bool receive() {
    char some[100];
    const ssize_t n = recv(fd_.get(), some, sizeof(some), 0);
    if (n > 0) tls_->receive({some, static_cast<size_t>(n)});
    return n > 0;
  }

  UniqueFd fd_;
  std::optional<TlsChannel> tls_;
  FrameReader reader_{kMaxFrameBytes};
};

RankLink::Options options_for(const std::string& address) {
  RankLink::Options options;
  options.address = address;
  options.hello.secret = "s";
  options.hello.epoch = 4;
  options.hello.world_size = 1;
  options.connect_timeout_ms = 20000;
  return options;
}

JobSpec quick_job() {
  JobSpec job;
  job.heartbeat_ms = 5;
  job.silence_ms = 20000;
  return job;
}

std::string connect_error(const RankLink::Options& options) {
  try {
    RankLink::connect(options);
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "connected";
}

TEST(ControlRankLink, ParsesAddresses) {
  EXPECT_EQ((*parse_host_port("[::1]:80")).host, "::1");
  EXPECT_EQ((*parse_host_port("node-1:65535")).port, "65535");
  EXPECT_FALSE((*parse_host_port("node-1:65535")).tls);
  EXPECT_EQ((*parse_host_port("tls://[::1]:80")).host, "::1");
  EXPECT_TRUE((*parse_host_port("tls://node-1:1")).tls);
  for (const char* wrong : {"", "host", ":80", "host:", "host:0", "host:65536", "host:8o", "h:-1",
                            "tls://", "tls://host"}) {
    EXPECT_FALSE(parse_host_port(wrong).ok()) << wrong;
  }
}

void go_from_hello_to_drain(bool tls) {
  const Listener listener;
  std::thread coordinator([&] {
    Side side(listener.accept_one(), tls);
    const auto hello = side.next<RankHello>();
    ASSERT_TRUE(hello);
    EXPECT_EQ(hello->secret, "s");
    EXPECT_EQ(hello->epoch, 4U);
    side.send(quick_job());
    EXPECT_EQ(side.next<RankReady>()->kv_blocks, 9);
    side.send(GroupStart{.kv_blocks = 6});
    StepPlan plan;
    for (plan.step_id = 1; plan.step_id <= 50; ++plan.step_id) side.send(plan);
    for (uint64_t step = 1; step <= 50; ++step) EXPECT_EQ(side.next<StepResult>()->step_id, step);
    RankState state = side.next<RankState>().value();
    while (state.tick < 2) state = side.next<RankState>().value();
    EXPECT_EQ(state.activity, RankActivity::kWaiting);
    EXPECT_EQ(state.waiting_op, 5);
    EXPECT_EQ(state.waiting_peer, -1);
    EXPECT_EQ(state.loaded_bytes, 3U);
    EXPECT_EQ(state.total_bytes, 4U);
    EXPECT_EQ(state.busy_us, 10U);
    EXPECT_EQ(state.comm_us, 20U);
    EXPECT_EQ(state.stage_wait_us, 5U);
    side.send(ControlDrain{});
    // What is sent last arrives although pings lie unread at the other end.
    for (int i = 0; i < 100; ++i) side.send(ControlPing{});
    EXPECT_EQ(side.next<ControlFailure>()->message, "bye");
    EXPECT_FALSE(side.next<ControlFailure>());
  });
  {
    const auto link = RankLink::connect(options_for((tls ? "tls://" : "") + listener.address()));
    EXPECT_EQ(link->job().heartbeat_ms, 5);
    EXPECT_EQ(link->ready_and_wait_start({.kv_blocks = 9,
                                          .numerics_id = "n",
                                          .device = "d",
                                          .weight_bytes = 0,
                                          .kv_bytes = 0})
                  .kv_blocks,
              6);
    RankTask task;
    while (link->next_task(task)) {
      const auto& plan = std::get<StepPlan>(task);
      StepResult result;
      result.step_id = plan.step_id;
      link->send_result(result);
      if (plan.step_id < 50) continue;
      link->set_loaded(3, 4);
      link->add_busy_us(10);
      link->add_comm_us(15, /*with_stage=*/false);
      link->add_comm_us(5, /*with_stage=*/true);
      link->set_activity(RankActivity::kWaiting, 5, -1);
      link->tick();
      link->tick();
    }
    link->send_failure("bye");
  }
  coordinator.join();
}

TEST(ControlRankLink, GoesFromHelloToDrain) { go_from_hello_to_drain(/*tls=*/false); }

TEST(ControlRankLink, GoesFromHelloToDrainUnderTls) { go_from_hello_to_drain(/*tls=*/true); }

TEST(ControlRankLink, GoesOnInANewTlsSession) {
  const Listener listener;
  std::thread coordinator([&] {
    Side side(listener.accept_one(), /*tls=*/true);
    ASSERT_TRUE(side.next<RankHello>());
    side.send(quick_job());
    for (uint64_t step = 1; step <= 3; ++step) {
      side.renew();
      ASSERT_TRUE(side.next<RankState>()) << "heartbeats go on";
      StepPlan plan;
      plan.step_id = step;
      side.send(plan);
      EXPECT_EQ(side.next<StepResult>()->step_id, step);
    }
    side.send(ControlDrain{});
    EXPECT_FALSE(side.next<ControlFailure>());
  });
  {
    const auto link = RankLink::connect(options_for("tls://" + listener.address()));
    RankTask task;
    while (link->next_task(task)) {
      StepResult result;
      result.step_id = std::get<StepPlan>(task).step_id;
      link->send_result(result);
    }
  }
  coordinator.join();
}

TEST(ControlRankLink, ACoordinatorThatDoesNotKnowTheSecretIsNotTalkedTo) {
  const Listener listener;
  std::thread coordinator([&] {
    Side side(listener.accept_one(), /*tls=*/true);
    EXPECT_FALSE(side.next<RankHello>());
  });
  RankLink::Options options = options_for("tls://" + listener.address());
  options.hello.secret = "another";
  EXPECT_THAT(connect_error(options), HasSubstr("TRIREME_SECRET"));
  coordinator.join();
}

TEST(ControlRankLink, RefusalsAndDeadEndsAreNamed) {
  const Listener listener;
  std::thread coordinator([&] {
    Side refusing(listener.accept_one());
    refusing.next<RankHello>();
    refusing.send(ControlFailure{.message = "install one version"});
    refusing.hang_up();
    Side babbling(listener.accept_one());
    babbling.next<RankHello>();
    babbling.send(ControlPing{});
  });
  EXPECT_THAT(connect_error(options_for(listener.address())), HasSubstr("install one version"));
  EXPECT_THAT(connect_error(options_for(listener.address())), HasSubstr("another protocol"));
  coordinator.join();

  EXPECT_THAT(connect_error(options_for("nonsense")), HasSubstr("HOST:PORT"));
  RankLink::Options options = options_for("127.0.0.1:1");
  options.connect_timeout_ms = 300;
  EXPECT_THAT(connect_error(options), HasSubstr("Connection refused"));
  options.address = "no-such-host.invalid:80";
  EXPECT_THAT(connect_error(options), HasSubstr("no-such-host.invalid"));
}

TEST(ControlRankLink, DialsAgainWhenItIsHungUpOn) {
  const Listener listener;
  std::thread coordinator([&] {
    listener.accept_one();
    Side side(listener.accept_one());
    side.next<RankHello>();
    side.send(quick_job());
    while (side.next<RankState>()) {
    }
  });
  EXPECT_NO_THROW(RankLink::connect(options_for(listener.address())));
  coordinator.join();
}

// Each of these ends the process, with the status that says so.
class ControlRankLinkDeathTest : public testing::Test {
 protected:
  // Runs a rank against a coordinator that gives it a job and then does `then`.
  template <typename Then>
  static void rank_with(int32_t silence_ms, Then then, int32_t cut_off_ms = 0, uint32_t host = 1) {
    const Listener listener(host);
    std::thread coordinator([&] {
      Side side(listener.accept_one());
      side.next<RankHello>();
      JobSpec job = quick_job();
      job.silence_ms = silence_ms;
      job.cut_off_ms = cut_off_ms;
      side.send(job);
      then(side);
      while (side.next<RankState>()) {
      }
    });
    const auto link = RankLink::connect(options_for(listener.address()));
    RankTask task;
    while (link->next_task(task)) {
    }
    coordinator.join();
  }
  const testing::ExitedWithCode orphaned_{RankLink::kExitOrphaned};
};

TEST_F(ControlRankLinkDeathTest, SilenceEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(rank_with(150, [](Side&) {}), orphaned_, "nothing heard from the coordinator");
}

TEST_F(ControlRankLinkDeathTest, ACutNetworkEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(rank_with(
                  20000, [](Side&) {}, 150, 2),
              orphaned_, "cut off: nothing heard");
}

// Where there is no network, and where the coordinator said that it would be quiet, a pause is one.
TEST_F(ControlRankLinkDeathTest, APauseOfTheCoordinatorIsNoCut) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang_up_late = [](Side& side) {
    side.send(ControlPing{.quiet_ms = 1});
    for (int i = 0; i < 100; ++i) side.next<RankState>();  // of one each 5 ms
    side.hang_up();
  };
  EXPECT_EXIT(rank_with(20000, hang_up_late, 150, 2), orphaned_, "closed the connection");
  const auto say_nothing = [](Side& side) {
    for (int i = 0; i < 100; ++i) side.next<RankState>();
    side.hang_up();
  };
  EXPECT_EXIT(rank_with(20000, say_nothing, 150, 1), orphaned_, "closed the connection");
}

TEST_F(ControlRankLinkDeathTest, AHangUpEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(rank_with(20000, [](Side& side) { side.hang_up(); }), orphaned_,
              "closed the connection");
}

TEST_F(ControlRankLinkDeathTest, AFrameOutOfPlaceEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(rank_with(20000, [](Side& side) { side.send(RankReady{}); }), orphaned_,
              "only ranks send");
}

}  // namespace
}  // namespace trireme
