#include "coordinator/cli/weights_push.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "coordinator/cli/progress.h"
#include "coordinator/cli/say.h"
#include "kernels/result.h"
#include "model/checksum.h"
#include "model/model_folder.h"
#include "model/packed_folder.h"
#include "model/packed_model.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kTellPeriod{1};
// Beyond the ranks' own deadline, for a service that is busy.
constexpr std::chrono::seconds kServiceGrace{30};

uint64_t tokenizer_checksum(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // A command without texts (trireme bench) serves models that have none.
  return bytes.empty() ? 0 : checksum64(std::as_bytes(std::span(bytes)));
}

// Tells how far something is, at most once a second.
class SlowTeller {
 public:
  SlowTeller(std::string what, const WeightsPush::Tell& tell)
      : what_(std::move(what)), tell_(tell) {}

  void update(uint64_t done, uint64_t total) {
    const Clock::time_point now = Clock::now();
    if (total == 0 || now - last_ < kTellPeriod) return;
    last_ = now;
    tell_(fmt::format("{}: {} of {}", what_, human_bytes(done), human_bytes(total)));
  }

 private:
  const std::string what_;
  const WeightsPush::Tell& tell_;
  Clock::time_point last_ = Clock::now();
};

// What the service's thread and the one that waits for it share.
struct Outcome {
  std::mutex mutex;
  std::condition_variable changed;
  std::pair<uint64_t, uint64_t> bytes;  // loaded, of all
  bool ended = false;
  std::string failure;
  int32_t n_before = 0;
};

PushListener listener_of(const std::shared_ptr<Outcome>& outcome) {
  return {.on_progress =
              [outcome](uint64_t loaded, uint64_t total) {
                const std::lock_guard lock(outcome->mutex);
                outcome->bytes = {loaded, total};
                outcome->changed.notify_all();
              },
          .on_end =
              [outcome](const std::string& failure, int32_t n_before) {
                const std::lock_guard lock(outcome->mutex);
                outcome->ended = true;
                outcome->failure = failure;
                outcome->n_before = n_before;
                outcome->changed.notify_all();
              }};
}

}  // namespace

WeightsPush::WeightsPush(InferenceCore& core, Served served)
    : core_(core), served_(std::move(served)), tokenizer_(tokenizer_checksum(served_.model)) {}

void WeightsPush::refuse(const std::string& why) {
  refusing_ = true;
  core_.refuse_changes(why);
}

void WeightsPush::check_ending() const {
  if (refusing_) throw EnvironmentError("the server is shutting down");
}

// The packed file of a model that can be served in the place of this one.
std::filesystem::path WeightsPush::pack(const std::filesystem::path& model,
                                        const Tell& tell) const {
  const ModelPlace place = model_place(model);
  const ModelConfig config = place.packed.empty() ? read_model_config(place.folder)
                                                  : PackedModel::open(place.packed)->config();
  const std::string difference = config_difference(config, served_.config);
  if (!difference.empty()) {
    throw EnvironmentError(
        fmt::format("{}: cannot take the place of the model that is served: {}; start a server of "
                    "its own for it",
                    model.string(), difference));
  }
  if (tokenizer_checksum(place.folder) != tokenizer_) {
    throw EnvironmentError(fmt::format(
        "{}: its tokenizer.json is not that of the model that is served; start a server of its own "
        "for it",
        place.folder.string()));
  }
  if (!place.packed.empty()) return std::filesystem::absolute(place.packed);
  SlowTeller packing("packing the weights", tell);
  return cached_packed_model(place.folder, served_.format,
                             {.fallback = served_.fallback,
                              .keep = served_.packed,
                              .on_progress =
                                  [&](uint64_t done, uint64_t total) {
                                    check_ending();
                                    packing.update(done, total);
                                  },
                              .on_note = tell});
}

std::string WeightsPush::push(const std::string& model, const Tell& tell) {
  check_ending();
  const Clock::time_point begin = Clock::now();
  const auto packed = PackedModel::open(pack(resolve_model(model), tell));
  const WeightsFile file{.path = packed->path().string(), .fingerprint = packed->fingerprint()};
  const std::string id = weights_id(file.fingerprint);
  if (const std::string found = encodings_text(packed->encodings()); found != served_.encodings) {
    throw EnvironmentError(fmt::format(
        "{}: has {} weights, the server {}: pack it with the same --format, or push its unpacked "
        "folder",
        file.path, found, served_.encodings));
  }
  if (packed->path() == served_.packed.back() && id != core_.weights()->id) {
    throw EnvironmentError(fmt::format(
        "{}: is the file that is served, changed since; put the new one in another place",
        file.path));
  }
  const auto outcome = std::make_shared<Outcome>();
  core_.push(file, listener_of(outcome));
  SlowTeller preparing("preparing the ranks", tell);
  const auto deadline = Clock::now() + std::chrono::milliseconds(served_.push_ms) + kServiceGrace;
  std::unique_lock lock(outcome->mutex);
  while (!outcome->ended) {
    if (outcome->changed.wait_until(lock, deadline) == std::cv_status::timeout)
      throw EnvironmentError("the server was not done in time; see what it says");
    preparing.update(outcome->bytes.first, outcome->bytes.second);
  }
  if (!outcome->failure.empty()) throw EnvironmentError(outcome->failure);
  served_.packed = {served_.packed.back(), packed->path()};
  const std::chrono::duration<double> seconds = Clock::now() - begin;
  const std::string done = fmt::format(
      "new requests are answered with {} (weights {}, {} before), ready in {:.1f} s", model, id,
      outcome->n_before == 0 ? std::string("no request runs on those")
                             : fmt::format("{} requests end on those", outcome->n_before),
      seconds.count());
  say(stderr, "trireme: {}\n", done);
  return done;
}

}  // namespace trireme
