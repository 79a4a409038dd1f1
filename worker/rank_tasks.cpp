#include "worker/rank_tasks.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "worker/weight_verifier.h"
#include "worker/weights_loader.h"

namespace trireme {
namespace {

constexpr int kExitDamaged = 1;
constexpr int kVerifyDelayMs = 2000;
constexpr std::chrono::seconds kDeathGrace{1};

// Ends the rank for good: the coordinator kills the group as soon as it hears of it.
[[noreturn]] void end_for_damage(RankLink& link, const std::string& damage) {
  link.send_failure(damage);
  std::this_thread::sleep_for(kDeathGrace);
  std::fprintf(stderr, "trireme worker: %s\n", damage.c_str());
  _exit(kExitDamaged);
}

class RankTasks {
 public:
  RankTasks(RankLink& link, Engine& engine)
      : link_(link),
        engine_(engine),
        loader_(engine, engine.generations().front()->weights.file->encodings(),
                {.on_progress = [&link](uint64_t done,
                                        uint64_t total) { link.set_loaded(done, total); },
                 .on_prepared =
                     [&link](const WeightsPrepared& prepared) { link.send_prepared(prepared); }}) {
    for (const auto& generation : engine.generations()) {
      verifiers_[generation->number] = std::make_unique<WeightVerifier>(
          generation->weights.file, engine.shard(), kVerifyDelayMs,
          [&link](const std::string& damage) { end_for_damage(link, damage); });
    }
  }

  void serve() {
    RankTask task;
    link_.set_activity(RankActivity::kIdle);
    while (link_.next_task(task)) {
      if (const auto* plan = std::get_if<StepPlan>(&task)) {
        step(*plan);
      } else {
        obey(std::get<WeightsOrder>(task));
      }
    }
  }

 private:
  void step(const StepPlan& plan) {
    const auto begin = std::chrono::steady_clock::now();
    link_.set_activity(RankActivity::kComputing);
    set_busy(true);
    const bool answers = engine_.step(plan, result_);
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - begin);
    link_.add_busy_us(static_cast<uint64_t>(us.count()));
    link_.tick();
    set_busy(false);
    link_.set_activity(RankActivity::kIdle);
    if (answers) link_.send_result(result_);
  }

  void set_busy(bool busy) {
    loader_.set_busy(busy);
    for (const auto& [generation, verifier] : verifiers_) verifier->set_busy(busy);
  }

  // None of this waits for the disk or unmaps anything: the others wait for this rank's steps.
  void obey(const WeightsOrder& order) {
    const uint64_t generation = order.file.generation;
    switch (order.kind) {
      case WeightsOrder::Kind::kPrepare: return loader_.prepare(order.file);
      case WeightsOrder::Kind::kCommit: return engine_.add(loader_.take(generation));
      case WeightsOrder::Kind::kDrop: break;
    }
    loader_.give_up(generation);
    if (auto dropped = engine_.remove(generation)) loader_.dispose(std::move(dropped));
    const auto verifier = verifiers_.find(generation);
    if (verifier == verifiers_.end()) return;
    loader_.dispose(std::move(verifier->second));
    verifiers_.erase(verifier);
  }

  RankLink& link_;
  Engine& engine_;
  WeightsLoader loader_;
  // Of the weights that the engine began with; those prepared later were compared before.
  std::map<uint64_t, std::unique_ptr<WeightVerifier>> verifiers_;
  StepResult result_;
};

}  // namespace

void serve_tasks(RankLink& link, Engine& engine) { RankTasks(link, engine).serve(); }

}  // namespace trireme
