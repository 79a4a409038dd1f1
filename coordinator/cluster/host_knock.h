#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace trireme {

// Finds out whether the network reaches hosts, in both directions: connects to each every 100 ms
// until it answers, be it by refusing. Used by the io_context's one thread.
class HostKnock {
 public:
  // Told once for each host that answered. It may not destroy this object.
  using OnReached = std::function<void(const std::string& host)>;

  // By name. Gives up after `limit`.
  HostKnock(boost::asio::io_context& io,
            const std::map<std::string, boost::asio::ip::tcp::endpoint>& hosts,
            std::chrono::milliseconds limit, OnReached on_reached);
  ~HostKnock();
  HostKnock(const HostKnock&) = delete;
  HostKnock& operator=(const HostKnock&) = delete;

 private:
  struct Host {
    boost::asio::ip::tcp::endpoint endpoint;
    std::deque<boost::asio::ip::tcp::socket> attempts;  // of the last second
  };

  void knock();
  void try_host(const std::string& name, Host& host);
  void take_answer(const std::string& name);

  boost::asio::io_context& io_;
  const OnReached on_reached_;
  std::map<std::string, Host> unreached_;
  boost::asio::steady_timer timer_;
  const std::chrono::steady_clock::time_point end_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // of this object, for handlers
};

}  // namespace trireme
