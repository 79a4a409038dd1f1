#include "coordinator/cluster/host_knock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace trireme {
namespace {

using boost::asio::ip::address_v4;
using boost::asio::ip::tcp;
using std::chrono::milliseconds;
using testing::IsEmpty;

class ClusterHostKnock : public testing::Test {
 protected:
  tcp::acceptor listener(int backlog = 5) {
    tcp::acceptor made(io_, {address_v4::loopback(), 0});
    made.listen(backlog);
    return made;
  }
  HostKnock knock_at(const std::map<std::string, tcp::endpoint>& hosts, milliseconds limit) {
    return {io_, hosts, limit, [this](const std::string& host) { reached_.push_back(host); }};
  }
  void run_until_reached(size_t n) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (reached_.size() < n && std::chrono::steady_clock::now() < end)
      io_.run_one_for(milliseconds(100));
  }

  boost::asio::io_context io_;
  std::vector<std::string> reached_;
};

TEST_F(ClusterHostKnock, WhoeverAnswersIsThere) {
  tcp::acceptor listening = listener();
  tcp::acceptor gone = listener();
  const tcp::endpoint nobody = gone.local_endpoint();
  gone.close();
  const HostKnock knock = knock_at({{"accepts", listening.local_endpoint()}, {"refuses", nobody}},
                                   std::chrono::hours(1));
  run_until_reached(2);
  EXPECT_THAT(reached_, testing::UnorderedElementsAre("accepts", "refuses"));
  io_.run();  // it does not knock on
  EXPECT_EQ(reached_.size(), 2U);
}

// A listener whose queue is full drops what comes, as a network that is cut.
TEST_F(ClusterHostKnock, GoesOnUntilThereIsAnAnswerOrTheLimit) {
  for (const bool comes_back : {true, false}) {
    reached_.clear();
    tcp::acceptor full = listener(0);
    std::vector<tcp::socket> queue;
    for (int i = 0; i < 4; ++i) {
      queue.emplace_back(io_).async_connect(full.local_endpoint(), [](const auto&) {});
    }
    io_.restart();
    io_.run_for(milliseconds(50));
    const HostKnock knock =
        knock_at({{"far", full.local_endpoint()}}, milliseconds(comes_back ? 3600'000 : 300));
    io_.run_for(milliseconds(150));
    EXPECT_THAT(reached_, IsEmpty());
    queue.clear();
    if (comes_back) full.close();
    io_.run_for(std::chrono::seconds(30));
    EXPECT_TRUE(io_.stopped()) << "it knocks on";
    EXPECT_EQ(reached_.size(), comes_back ? 1U : 0U);
  }
}

TEST_F(ClusterHostKnock, TellsNothingAfterItsEnd) {
  tcp::acceptor listening = listener();
  { const HostKnock knock = knock_at({{"there", listening.local_endpoint()}}, milliseconds(300)); }
  io_.run();
  EXPECT_THAT(reached_, IsEmpty());
}

}  // namespace
}  // namespace trireme
