#include "coordinator/cluster/host_knock.h"

#include <utility>

namespace trireme {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// TCP itself would try again after a second.
constexpr std::chrono::milliseconds kPeriod{100};
constexpr size_t kMaxAttempts = 10;  // open for one host: an answer may take longer than a period

}  // namespace

HostKnock::HostKnock(asio::io_context& io, const std::map<std::string, tcp::endpoint>& hosts,
                     std::chrono::milliseconds limit, OnReached on_reached)
    : io_(io),
      on_reached_(std::move(on_reached)),
      timer_(io),
      end_(std::chrono::steady_clock::now() + limit) {
  for (const auto& [name, endpoint] : hosts) unreached_[name].endpoint = endpoint;
  knock();
}

HostKnock::~HostKnock() { *alive_ = false; }

void HostKnock::knock() {
  if (unreached_.empty()) return;
  if (std::chrono::steady_clock::now() >= end_) return unreached_.clear();
  for (auto& [name, host] : unreached_) try_host(name, host);
  timer_.expires_after(kPeriod);
  timer_.async_wait([this, alive = alive_](const error_code& error) {
    if (*alive && !error) knock();
  });
}

void HostKnock::try_host(const std::string& name, Host& host) {
  if (host.attempts.size() == kMaxAttempts) host.attempts.pop_front();
  tcp::socket& socket = host.attempts.emplace_back(io_);
  socket.async_connect(host.endpoint, [this, alive = alive_, name](const error_code& error) {
    if (!*alive || (error && error != asio::error::connection_refused)) return;
    take_answer(name);
  });
}

void HostKnock::take_answer(const std::string& name) {
  if (unreached_.erase(name) == 1) on_reached_(name);
}

}  // namespace trireme
