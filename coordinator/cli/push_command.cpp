#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "coordinator/admin/admin_client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/machine.h"
#include "coordinator/cli/say.h"
#include "model/model_folder.h"

namespace trireme {
namespace {

// The server's own deadlines end a push sooner; a model may have to be packed first.
constexpr std::chrono::hours kPushDeadline{24};

}  // namespace

int push_command(const PushOptions& options) {
  const std::filesystem::path model = std::filesystem::absolute(resolve_model(options.model));
  const std::string done = ask_server(run_folder_base(), options.pid, "push",
                                      {{"model", model.lexically_normal().string()}}, kPushDeadline,
                                      [](const std::string& line) { say(stderr, "{}\n", line); });
  say(stdout, "{}\n", done);
  return 0;
}

}  // namespace trireme
