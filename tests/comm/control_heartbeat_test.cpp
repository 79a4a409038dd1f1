// Heartbeats in datagrams: what is taken for one, and a rank's end of them.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <limits>
#include <string>

#include "comm/control/heartbeat_datagram.h"
#include "comm/control/heartbeat_line.h"

namespace trireme {
namespace {

const std::string kSalt = "0123456789abcdef";

SecretKey key_of_test() { return heartbeat_key(kSalt, "s"); }

Heartbeat a_heartbeat() {
  return {.world_rank = 3,
          .number = 5,
          .unheard_ms = 7,
          .state = {.tick = 8, .activity = RankActivity::kWaiting, .busy_us = ~0ULL}};
}

std::string with_change(std::string text, size_t at) {
  text[at] = static_cast<char>(text[at] ^ 1);
  return text;
}

TEST(ControlHeartbeat, ComesBackWhole) {
  const SecretKey key = key_of_test();
  const auto heartbeat = open_heartbeat(key, seal(key, a_heartbeat()));
  ASSERT_TRUE(heartbeat);
  EXPECT_EQ(heartbeat->world_rank, 3);
  EXPECT_EQ(heartbeat->number, 5U);
  EXPECT_EQ(heartbeat->unheard_ms, 7);
  EXPECT_EQ(heartbeat->state.tick, 8U);
  EXPECT_EQ(heartbeat->state.activity, RankActivity::kWaiting);
  EXPECT_EQ(heartbeat->state.busy_us, ~0ULL);
  const auto answer =
      open_answer(key, seal(key, HeartbeatAnswer{.world_rank = 0, .number = ~0ULL}));
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->world_rank, 0);
  EXPECT_EQ(answer->number, ~0ULL);
}

TEST(ControlHeartbeat, TheLongestOneFits) {
  RankState state{.tick = ~0ULL,
                  .activity = RankActivity::kWaiting,
                  .waiting_op = std::numeric_limits<int32_t>::max(),
                  .waiting_peer = 4095,
                  .loaded_bytes = ~0ULL,
                  .total_bytes = ~0ULL,
                  .busy_us = ~0ULL,
                  .comm_us = ~0ULL,
                  .stage_wait_us = ~0ULL};
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  const SecretKey key = key_of_test();
  EXPECT_TRUE(open_heartbeat(
      key,
      seal(key,
           Heartbeat{.world_rank = kMost, .number = ~0ULL, .unheard_ms = kMost, .state = state})));
}

TEST(ControlHeartbeat, WhatWasTamperedWithIsNone) {
  const SecretKey key = key_of_test();
  const std::string sealed = seal(key, a_heartbeat());
  for (size_t i = 0; i < sealed.size(); ++i) {
    EXPECT_FALSE(open_heartbeat(key, with_change(sealed, i))) << i;
    EXPECT_FALSE(open_heartbeat(key, sealed.substr(0, i))) << i;
  }
  EXPECT_FALSE(open_heartbeat(key, sealed + sealed.back()));
  EXPECT_FALSE(open_heartbeat(key, std::string(100'000, 'x')));
}

TEST(ControlHeartbeat, OfAnotherLaunchOrJobIsNone) {
  const std::string sealed = seal(key_of_test(), a_heartbeat());
  EXPECT_FALSE(open_heartbeat(heartbeat_key(with_change(kSalt, 15), "s"), sealed));
  EXPECT_FALSE(open_heartbeat(heartbeat_key(kSalt, "t"), sealed));
  EXPECT_FALSE(open_heartbeat(derive_key("trireme control connection", "s"), sealed));
}

// Thrown back at its sender, neither passes for what the other end says.
TEST(ControlHeartbeat, AnAnswerIsNoHeartbeat) {
  const SecretKey key = key_of_test();
  EXPECT_FALSE(open_answer(key, seal(key, a_heartbeat())));
  EXPECT_FALSE(open_heartbeat(key, seal(key, HeartbeatAnswer{.world_rank = 3, .number = 5})));
}

TEST(ControlHeartbeat, WhatIsOutOfRangeIsNone) {
  const SecretKey key = key_of_test();
  Heartbeat heartbeat = a_heartbeat();
  heartbeat.world_rank = -1;
  EXPECT_FALSE(open_heartbeat(key, seal(key, heartbeat)));
  heartbeat = a_heartbeat();
  heartbeat.unheard_ms = -2;
  EXPECT_FALSE(open_heartbeat(key, seal(key, heartbeat)));
  heartbeat = a_heartbeat();
  heartbeat.state.waiting_op = -1;
  EXPECT_FALSE(open_heartbeat(key, seal(key, heartbeat)));
}

TEST(ControlHeartbeat, SaltsAreNeverTheSame) {
  EXPECT_EQ(random_salt().size(), kSaltBytes);
  EXPECT_NE(random_salt(), random_salt());
}

// A rank's end, and a coordinator made of a bare socket at its listener's port.
class ControlHeartbeatLine : public testing::Test {
 protected:
  ControlHeartbeatLine() {
    bind_to(listener_, 0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
    sockaddr_in here = address_of(listener_);
    bind_to(datagrams_, here.sin_port);
    EXPECT_EQ(connect(connection_.get(), reinterpret_cast<sockaddr*>(&here), sizeof(here)), 0);
  }

  static sockaddr_in address_of(const UniqueFd& fd) {
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    EXPECT_EQ(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    return address;
  }
  static void bind_to(const UniqueFd& fd, in_port_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = port;
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  // The next one that came.
  Heartbeat take() {
    char room[1000];
    socklen_t size = sizeof(rank_);
    const ssize_t n = recvfrom(datagrams_.get(), room, sizeof(room), 0,
                               reinterpret_cast<sockaddr*>(&rank_), &size);
    EXPECT_GT(n, 0);
    return open_heartbeat(key_, {room, static_cast<size_t>(std::max<ssize_t>(n, 0))})
        .value_or(Heartbeat{.world_rank = -1});
  }
  void answer(const std::string& datagram) {
    EXPECT_GT(sendto(datagrams_.get(), datagram.data(), datagram.size(), 0,
                     reinterpret_cast<sockaddr*>(&rank_), sizeof(rank_)),
              0);
  }

  const SecretKey key_ = key_of_test();
  UniqueFd listener_{socket(AF_INET, SOCK_STREAM, 0)};
  UniqueFd datagrams_{socket(AF_INET, SOCK_DGRAM, 0)};
  UniqueFd connection_{socket(AF_INET, SOCK_STREAM, 0)};
  sockaddr_in rank_{};
  std::chrono::steady_clock::time_point long_ago_{std::chrono::steady_clock::now() -
                                                  std::chrono::hours(1)};
};

TEST_F(ControlHeartbeatLine, TellsWhetherItIsAnswered) {
  HeartbeatLine line(connection_.get(), key_, 2);
  line.beat({.tick = 9}, long_ago_);
  const Heartbeat first = take();
  EXPECT_EQ(first.world_rank, 2);
  EXPECT_EQ(first.state.tick, 9U);
  EXPECT_EQ(first.unheard_ms, -1);

  answer("garbage");
  answer(seal(key_, HeartbeatAnswer{.world_rank = 1, .number = first.number}));
  answer(seal(key_, HeartbeatAnswer{.world_rank = 2, .number = first.number + 1}));
  answer(seal(heartbeat_key(kSalt, "t"), HeartbeatAnswer{.world_rank = 2, .number = first.number}));
  line.beat({}, long_ago_);
  const Heartbeat second = take();
  EXPECT_GT(second.number, first.number);
  EXPECT_EQ(second.unheard_ms, -1) << "none of these was an answer";

  answer(seal(key_, HeartbeatAnswer{.world_rank = 2, .number = second.number}));
  line.beat({}, long_ago_);
  EXPECT_GE(take().unheard_ms, 0);
}

TEST_F(ControlHeartbeatLine, AnAnswerThatComesAgainIsNone) {
  HeartbeatLine line(connection_.get(), key_, 2);
  line.beat({}, long_ago_);
  const std::string answered =
      seal(key_, HeartbeatAnswer{.world_rank = 2, .number = take().number});
  answer(answered);
  line.beat({}, long_ago_);
  take();
  const auto answered_at = std::chrono::steady_clock::now();
  constexpr std::chrono::milliseconds kLater{20};
  while (std::chrono::steady_clock::now() < answered_at + kLater) {
  }
  answer(answered);
  line.beat({}, long_ago_);
  EXPECT_GE(take().unheard_ms, kLater.count());
  line.beat({}, std::chrono::steady_clock::now() + std::chrono::hours(1));
  EXPECT_EQ(take().unheard_ms, 0) << "the connection brought something";
}

TEST_F(ControlHeartbeatLine, NobodyThereIsNoError) {
  datagrams_.reset();
  HeartbeatLine line(connection_.get(), key_, 2);
  for (int i = 0; i < 100; ++i) line.beat({}, long_ago_);
}

}  // namespace
}  // namespace trireme
