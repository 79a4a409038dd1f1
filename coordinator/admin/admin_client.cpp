#include "coordinator/admin/admin_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "coordinator/admin/admin_line.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

struct Server {
  int64_t pid = 0;
  UniqueFd socket;
};

// The server that listens in a folder of this user, if one does.
std::optional<Server> connect_in(const std::filesystem::path& folder) {
  const UniqueFd place(open(folder.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  if (!place || fstat(place.get(), &status) != 0 || status.st_uid != geteuid()) return std::nullopt;
  Server server{.socket = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  admin_socket_path(place).copy(address.sun_path, sizeof address.sun_path - 1);
  ucred peer{};
  socklen_t size = sizeof peer;
  if (!server.socket ||
      connect(server.socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
          0 ||
      getsockopt(server.socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
      peer.uid != geteuid()) {
    return std::nullopt;
  }
  server.pid = peer.pid;
  return server;
}

Server find_server(const std::filesystem::path& base, int64_t pid) {
  std::vector<Server> found;
  std::vector<int64_t> pids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base, error)) {
    if (!entry.path().filename().string().starts_with("trireme-run-")) continue;
    std::optional<Server> server = connect_in(entry.path());
    if (!server || (pid != 0 && server->pid != pid)) continue;
    pids.push_back(server->pid);
    found.push_back(*std::move(server));
  }
  if (found.size() == 1) return std::move(found.front());
  if (!found.empty())
    throw EnvironmentError(fmt::format("more than one server runs: name one with --pid, of {}",
                                       fmt::join(pids, ", ")));
  throw EnvironmentError(fmt::format(
      "{} of this user listens in {}: start it with trireme serve, or set TMPDIR as it was there",
      pid == 0 ? "no server" : fmt::format("no server with the process id {}", pid),
      base.string()));
}

}  // namespace

std::string ask_server(const std::filesystem::path& base, int64_t pid, const std::string& command,
                       const Json& arguments, std::chrono::seconds timeout,
                       const std::function<void(const std::string& progress)>& tell) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  Server server = find_server(base, pid);
  AdminLines lines(std::move(server.socket));
  if (!lines.write(Json{{"command", command}, {"arguments", arguments}}.dump()))
    throw EnvironmentError("the server takes no commands; is it about to end?");
  while (const std::optional<std::string> line = lines.read(deadline)) {
    const Json said = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
    if (!said.is_object()) break;
    if (said.contains("result")) return said.value("result", "");
    if (said.contains("error")) throw EnvironmentError(said.value("error", ""));
    if (said.contains("progress")) tell(said.value("progress", ""));
  }
  throw EnvironmentError(
      std::chrono::steady_clock::now() >= deadline
          ? fmt::format("the server was not done within {} s; see what it says", timeout.count())
          : "the server ended before it was done; see what it said");
}

}  // namespace trireme
