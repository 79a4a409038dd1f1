#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <thread>

#include "coordinator/admin/admin_line.h"

namespace trireme {

// Where commands of the same user on the same host (`trireme push`, `trireme upgrade`) reach a
// server: a Unix socket in its run folder. One at a time, on a thread of its own; another that
// comes meanwhile is refused.
class AdminServer {
 public:
  // Tells the one who asked how it goes.
  struct Tell {
    std::function<void(const std::string& progress)> write;
    int asker = -1;  // the connection
    void operator()(const std::string& progress) const { write(progress); }
  };
  // Returns the result, one line. An EnvironmentError is what the command says instead. It has a
  // deadline of its own; that the one who asked is gone does not end it.
  using Handler = std::function<std::string(const nlohmann::json& arguments, const Tell& tell)>;

  // `folder` is this user's alone. Throws EnvironmentError.
  AdminServer(const std::filesystem::path& folder, std::map<std::string, Handler> handlers);
  // Lets a command that runs end.
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

 private:
  void serve();
  void answer(AdminLines& lines, const std::string& request);

  const std::map<std::string, Handler> handlers_;
  UniqueFd listener_;
  std::atomic<bool> busy_ = false;
  std::thread thread_;
};

}  // namespace trireme
