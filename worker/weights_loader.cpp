#include "worker/weights_loader.h"

#include <sys/resource.h>

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

// Steps come first: a lower weight for the processors, and a rest after every few hundred KiB
// while one is computed, which leaves it a few hundred MiB a second.
constexpr int kNiceness = 10;
constexpr std::chrono::milliseconds kBusyRest{1};

}  // namespace

std::shared_ptr<const PackedModel> open_weights(const WeightsFile& file) {
  auto packed = PackedModel::open(file.path);
  if (packed->fingerprint() != file.fingerprint) {
    throw EnvironmentError(fmt::format(
        "{}: holds other weights ({:016x}) than this server serves ({:016x}); put the same file on "
        "every host, and none in the place of one that is served",
        file.path, packed->fingerprint(), file.fingerprint));
  }
  return packed;
}

WeightsLoader::WeightsLoader(Engine& engine, const PackedEncodings& encodings, Listener listener)
    : engine_(engine),
      encodings_(encodings_text(encodings)),
      listener_(std::move(listener)),
      thread_([this] { run(); }) {}

WeightsLoader::~WeightsLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WeightsLoader::prepare(WeightsFile file) {
  const std::lock_guard lock(mutex_);
  generation_ = file.generation;
  wanted_ = std::move(file);
  if (prepared_) garbage_.push_back(std::move(prepared_));
  changed_.notify_all();
}

WeightsLoader::Generation WeightsLoader::take(uint64_t generation) {
  const std::lock_guard lock(mutex_);
  TRIREME_CHECK_MSG(prepared_ != nullptr && prepared_->number == generation,
                    "weights that were not prepared are to be used");
  generation_ = 0;
  return std::move(prepared_);
}

void WeightsLoader::give_up(uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (generation_ != generation) return;
  generation_ = 0;
  wanted_.reset();
  if (prepared_) garbage_.push_back(std::move(prepared_));
  changed_.notify_all();
}

void WeightsLoader::dispose(std::shared_ptr<void> garbage) {
  const std::lock_guard lock(mutex_);
  garbage_.push_back(std::move(garbage));
  changed_.notify_all();
}

void WeightsLoader::run() {
  (void)setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread; a wish only
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || wanted_ || !garbage_.empty(); });
    if (stopping_) return;
    auto garbage = std::exchange(garbage_, {});
    const std::optional<WeightsFile> file = std::exchange(wanted_, std::nullopt);
    lock.unlock();
    garbage.clear();
    if (file) work(*file);
    lock.lock();
  }
}

void WeightsLoader::work(const WeightsFile& file) {
  WeightsPrepared prepared{.generation = file.generation};
  Generation made;
  try {
    made = make(file, prepared);
  } catch (const EnvironmentError& error) {
    prepared.failure = error.what();
  }
  {
    const std::lock_guard lock(mutex_);
    if (generation_ != file.generation) return;  // given up meanwhile: what was made goes
    prepared_ = std::move(made);
  }
  listener_.on_prepared(prepared);
}

WeightsLoader::Generation WeightsLoader::make(const WeightsFile& file, WeightsPrepared& prepared) {
  const auto packed = open_weights(file);
  prepared.fingerprint = packed->fingerprint();
  prepared.numerics_id = engine_.numerics_id(packed->encodings());
  const std::string difference = config_difference(packed->config(), engine_.config());
  if (!difference.empty())
    throw EnvironmentError(fmt::format("{}: another model: {}", file.path, difference));
  if (const std::string text = encodings_text(packed->encodings()); text != encodings_)
    throw EnvironmentError(fmt::format("{}: weights of {}, not {}", file.path, text, encodings_));
  bool whole = true;
  const std::string damage =
      packed->find_damage(&engine_.shard(), [&](uint64_t done, uint64_t total) {
        listener_.on_progress(done, total);
        return whole = go_on(file.generation);
      });
  if (!damage.empty()) throw EnvironmentError(damage);
  if (!whole) return nullptr;
  return engine_.make_generation(file.generation,
                                 map_stage_weights(packed, engine_.shard(), nullptr));
}

bool WeightsLoader::go_on(uint64_t generation) {
  std::unique_lock lock(mutex_);
  const auto given_up = [&] { return stopping_ || generation_ != generation; };
  if (!busy_.load(std::memory_order_relaxed)) return !given_up();
  return !changed_.wait_for(lock, kBusyRest, given_up);
}

}  // namespace trireme
