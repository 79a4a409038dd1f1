#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct ClientResponse {
  int status = 0;                              // 0: the connection ended without a response
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without the transfer coding

  nlohmann::ordered_json json() const;
  // What the events of a stream hold, "data: " taken off.
  std::vector<std::string> events() const;
};

// One connection to 127.0.0.1. Every read fails the wait after 20 s, by giving what there is.
class TestClient {
 public:
  explicit TestClient(uint16_t port, int receive_buffer_bytes = 0);
  ~TestClient();
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  // False when the server does not take it.
  bool send(std::string_view bytes);
  ClientResponse read_response();
  // Raw bytes up to and with `mark`, or what came before the end.
  std::string read_until(std::string_view mark);
  // Whether the server ends the connection without a further byte.
  bool at_end();
  void close();

  ClientResponse get(const std::string& path);
  ClientResponse post(const std::string& path, const std::string& body);
  ClientResponse post(const std::string& path, const nlohmann::ordered_json& body);

 private:
  bool receive();  // appends to buffer_

  int fd_ = -1;
  std::string buffer_;
};

std::string post_text(const std::string& path, const std::string& body);

}  // namespace trireme
