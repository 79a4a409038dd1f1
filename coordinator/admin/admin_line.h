#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "comm/control/unique_fd.h"

namespace trireme {

// Both ends of an admin connection speak lines of JSON, one object each:
//   -> {"command": "push", "arguments": {...}}
//   <- {"progress": "..."}   any number of them
//   <- {"result": "..."}     or {"error": "..."}, and the end
class AdminLines {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  explicit AdminLines(UniqueFd socket) : socket_(std::move(socket)) {}

  // Without its \n. None: the other end is gone, the time is up, or the line is longer than 64 KiB.
  std::optional<std::string> read(Deadline deadline);
  // False: the other end is gone, or takes nothing.
  bool write(const std::string& line);

  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  std::string pending_;
};

// {"result": ...}, the last line of an answer.
std::string admin_result(const std::string& text);

// A socket in a folder, by a path that is never too long for the system: "/proc/self/fd/N/admin",
// which means something as long as `folder` (of O_PATH) is open.
std::string admin_socket_path(const UniqueFd& folder);

}  // namespace trireme
