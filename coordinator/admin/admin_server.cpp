#include "coordinator/admin/admin_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr std::chrono::seconds kRequestDeadline{5};
constexpr int kMostWaiting = 8;

[[noreturn]] void fail(const std::filesystem::path& folder) {
  throw EnvironmentError(
      fmt::format("cannot listen for commands in {}: {}; set TMPDIR to a folder "
                  "of a local file system",
                  folder.string(), std::strerror(errno)));
}

UniqueFd listen_in(const std::filesystem::path& folder) {
  const UniqueFd place(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!place || !listener) fail(folder);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  admin_socket_path(place).copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(address.sun_path);
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener.get(), kMostWaiting) != 0) {
    fail(folder);
  }
  return listener;
}

bool is_same_user(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

}  // namespace

AdminServer::AdminServer(const std::filesystem::path& folder,
                         std::map<std::string, Handler> handlers)
    : handlers_(std::move(handlers)), listener_(listen_in(folder)) {
  thread_ = std::thread([this] { serve(); });
}

AdminServer::~AdminServer() {
  shutdown(listener_.get(), SHUT_RDWR);  // wakes accept
  thread_.join();
}

void AdminServer::serve() {
  for (;;) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!socket) return;
    if (!is_same_user(socket.get())) continue;
    AdminLines lines(std::move(socket));
    answer(lines);
  }
}

void AdminServer::answer(AdminLines& lines) const {
  const std::optional<std::string> line =
      lines.read(std::chrono::steady_clock::now() + kRequestDeadline);
  if (!line) return;
  const Json request = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
  const auto write = [&lines](const char* kind, const std::string& text) {
    lines.write(Json{{kind, text}}.dump(-1, ' ', true, Json::error_handler_t::replace));
  };
  if (!request.is_object() || !request.contains("command") || !request["command"].is_string()) {
    return write("error", "this is no command");
  }
  const auto found = handlers_.find(request["command"].get<std::string>());
  if (found == handlers_.end()) return write("error", "this server knows no such command");
  try {
    const Tell tell{.write = [&write](const std::string& progress) { write("progress", progress); },
                    .asker = lines.fd()};
    write("result", found->second(request.value("arguments", Json::object()), tell));
  } catch (const EnvironmentError& error) {
    write("error", error.what());
  } catch (const Json::exception&) {
    write("error", "the command's arguments are not those that this server knows");
  }
}

}  // namespace trireme
