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

void write(AdminLines& lines, const char* kind, const std::string& text) {
  lines.write(Json{{kind, text}}.dump(-1, ' ', true, Json::error_handler_t::replace));
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
  std::thread command;
  for (;;) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!socket) break;
    if (!is_same_user(socket.get())) continue;
    AdminLines lines(std::move(socket));
    std::optional<std::string> request =
        lines.read(std::chrono::steady_clock::now() + kRequestDeadline);
    if (!request) continue;
    if (busy_.exchange(true)) {
      write(lines, "error", "another command is under way; try again when it has ended");
      continue;
    }
    if (command.joinable()) command.join();
    command = std::thread([this, lines = std::move(lines),
                           request = *std::move(request)]() mutable { answer(lines, request); });
  }
  if (command.joinable()) command.join();
}

void AdminServer::answer(AdminLines& lines, const std::string& request) {
  // Before whoever hears of it can ask for the next.
  const auto end = [&](const char* kind, const std::string& text) {
    busy_ = false;
    write(lines, kind, text);
  };
  const Json read = Json::parse(request, nullptr, /*allow_exceptions=*/false);
  if (!read.is_object() || !read.contains("command") || !read["command"].is_string()) {
    return end("error", "this is no command");
  }
  const auto found = handlers_.find(read["command"].get<std::string>());
  if (found == handlers_.end()) return end("error", "this server knows no such command");
  try {
    const Tell tell{
        .write = [&](const std::string& progress) { write(lines, "progress", progress); },
        .asker = lines.fd()};
    end("result", found->second(read.value("arguments", Json::object()), tell));
  } catch (const EnvironmentError& error) {
    end("error", error.what());
  } catch (const Json::exception&) {
    end("error", "the command's arguments are not those that this server knows");
  }
}

}  // namespace trireme
