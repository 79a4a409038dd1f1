#include "worker/worker_options.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace trireme {
namespace {

template <typename T>
bool parse_number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Error bad_option(std::string_view name, std::string_view value) {
  return {"trireme worker: bad value '" + std::string(value) + "' for " + std::string(name) +
              "; ranks are started by a launcher, see trireme serve --help",
          std::string(name)};
}

// False when the name is unknown or the value bad.
bool set_option(WorkerOptions& options, std::string_view name, std::string_view value) {
  if (name == "--comm") {
    if (value != "region" && value != "mpi") return false;
    options.comm = value == "mpi" ? WorkerOptions::Comm::kMpi : WorkerOptions::Comm::kRegion;
    return true;
  }
  if (name == "--coordinator") {
    options.coordinator = value;
    return !value.empty();
  }
  if (name == "--rank") return parse_number(value, options.rank) && options.rank >= 0;
  if (name == "--world") return parse_number(value, options.world) && options.world >= 1;
  if (name == "--region-fd") return parse_number(value, options.region_fd);
  return false;
}

}  // namespace

Result<WorkerOptions> parse_worker_options(int argc, char** argv) {
  WorkerOptions options;
  for (int i = 2; i < argc; i += 2) {
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (!set_option(options, argv[i], value)) return bad_option(argv[i], value);
  }
  if (options.coordinator.empty()) return bad_option("--coordinator", "");
  if (options.comm == WorkerOptions::Comm::kRegion &&
      (options.rank >= options.world || (options.world > 1 && options.region_fd < 0))) {
    return bad_option("--rank", std::to_string(options.rank));
  }
  options.secret = environment("TRIREME_SECRET");
  options.kernels = environment("TRIREME_KERNELS");
  const std::string epoch = environment("TRIREME_EPOCH");
  if (!parse_number(std::string_view(epoch), options.epoch)) {
    return bad_option("TRIREME_EPOCH", epoch);
  }
  return options;
}

}  // namespace trireme
