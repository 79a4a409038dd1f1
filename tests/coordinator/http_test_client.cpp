#include "tests/coordinator/http_test_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <nlohmann/json.hpp>

namespace trireme {

namespace http = boost::beast::http;

nlohmann::ordered_json ClientResponse::json() const {
  return nlohmann::ordered_json::parse(body, nullptr, /*allow_exceptions=*/false);
}

std::vector<std::string> ClientResponse::events() const {
  std::vector<std::string> events;
  size_t begin = 0;
  for (size_t end = body.find("\n\n"); end != std::string::npos; end = body.find("\n\n", begin)) {
    const std::string event = body.substr(begin, end - begin);
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    events.push_back(event.substr(std::min<size_t>(6, event.size())));
    begin = end + 2;
  }
  EXPECT_EQ(begin, body.size()) << "an event without its end";
  return events;
}

TestClient::TestClient(uint16_t port, int receive_buffer_bytes) {
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval timeout{.tv_sec = 20, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (receive_buffer_bytes > 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) close();
}

TestClient::~TestClient() { close(); }

void TestClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool TestClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool TestClient::receive() {
  std::array<char, 16384> bytes;
  const ssize_t n = ::recv(fd_, bytes.data(), bytes.size(), 0);
  if (n > 0) buffer_.append(bytes.data(), static_cast<size_t>(n));
  return n > 0;
}

ClientResponse TestClient::read_response() {
  http::response_parser<http::string_body> parser;
  parser.body_limit(boost::none);
  parser.eager(true);
  boost::beast::error_code ec;
  bool any = false;
  while (!parser.is_done()) {
    if (!buffer_.empty()) {
      any = true;
      buffer_.erase(0, parser.put(boost::asio::buffer(buffer_), ec));
      if (ec && ec != http::error::need_more) return {};
      if (parser.is_done()) break;
    }
    if (receive()) continue;
    if (!any) return {};
    parser.put_eof(ec);
    break;
  }
  ClientResponse response;
  if (!parser.is_done() || !any) return response;
  response.status = parser.get().result_int();
  for (const auto& field : parser.get()) {
    std::string name = field.name_string();
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    response.headers[name] = field.value();
  }
  response.body = parser.get().body();
  return response;
}

std::string TestClient::read_until(std::string_view mark) {
  size_t found = std::string::npos;
  while ((found = buffer_.find(mark)) == std::string::npos && receive()) {
  }
  const size_t size = found == std::string::npos ? buffer_.size() : found + mark.size();
  std::string bytes = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return bytes;
}

bool TestClient::at_end() {
  if (!buffer_.empty()) return false;
  char byte = 0;
  const ssize_t n = ::recv(fd_, &byte, 1, 0);
  return n == 0 || (n < 0 && errno == ECONNRESET);
}

std::string post_text(const std::string& path, const std::string& body) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      path, body.size(), body);
}

ClientResponse TestClient::get(const std::string& path) {
  send(fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path));
  return read_response();
}

ClientResponse TestClient::post(const std::string& path, const std::string& body) {
  send(post_text(path, body));
  return read_response();
}

ClientResponse TestClient::post(const std::string& path, const nlohmann::ordered_json& body) {
  return post(path, body.dump());
}

}  // namespace trireme
