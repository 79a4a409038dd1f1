#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/say.h"
#include "kernels/result.h"
#include "model/model_folder.h"
#include "model/packed_folder.h"
#include "model/packed_model.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

// The packed file that a MODEL argument means.
std::filesystem::path packed_file(const VerifyOptions& options) {
  const ModelPlace place = model_place(resolve_model(options.model));
  if (!place.packed.empty()) return place.packed;
  const std::filesystem::path cached = cached_packed_path(place.folder, options.format);
  if (std::filesystem::exists(cached)) return cached;
  const char* format = weight_format_name(options.format);
  throw EnvironmentError(
      fmt::format("{}: the cache holds no {} weights of it; serve it with --dtype {} first, or "
                  "give a packed folder or file",
                  options.model, format, format));
}

}  // namespace

int verify_command(const VerifyOptions& options) {
  const std::filesystem::path path = packed_file(options);
  const auto begin = std::chrono::steady_clock::now();
  const auto model = PackedModel::open(path);
  Progress progress("verifying");
  model->verify([&](uint64_t done, uint64_t total) { progress.update(done, total); });
  progress.complete();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  say(stdout, "every checksum fits: {} of {} weights in {:.1f} s: {}\n",
      human_bytes(model->size_bytes()), weight_format_name(model->format()), seconds.count(),
      path.string());
  return 0;
}

}  // namespace trireme
