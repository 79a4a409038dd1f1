// A rank without a model: speaks the control protocol as a real one does and answers plans with
// made up tokens. How it misbehaves is named by JobSpec::model_path, or, before it has a job, by
// the environment variable FAKE_WORKER.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "comm/control/build_id.h"
#include "comm/control/rank_link.h"
#include "comm/control/world_shape.h"
#include "comm/shared_region.h"
#include "kernels/result.h"

namespace trireme {
namespace {

std::string from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void sleep_for_ever() {
  for (;;) pause();
}

StepResult answer(const StepPlan& plan, int world_rank) {
  StepResult result{.epoch = plan.epoch,
                    .step_id = plan.step_id,
                    .world_rank = world_rank,
                    .sequences = {},
                    .trace = {}};
  for (const SequencePlan& sequence : plan.sequences) {
    SequenceResult one;
    one.request_id = sequence.request_id;
    one.slot = sequence.slot;
    one.drawn = {{.token_id = sequence.input_ids.empty() ? 0 : sequence.input_ids.back() + 1}};
    result.sequences.push_back(one);
  }
  return result;
}

void load(RankLink& link, const std::string& mode, const std::string& region_fd) {
  if (!region_fd.empty()) SharedRegion::attach(std::stoi(region_fd), world_shape(link.job()));
  if (mode == "no-room") throw EnvironmentError("no room for the weights; bring more");
  if (mode == "load-hang") sleep_for_ever();
  link.set_loaded(500, 1000);
  std::this_thread::sleep_for(std::chrono::milliseconds(2 * link.job().heartbeat_ms));
  link.set_loaded(1000, 1000);
}

void obey(RankLink& link, const std::string& mode, const WeightsOrder& order) {
  if (order.kind != WeightsOrder::Kind::kPrepare) return;
  WeightsPrepared prepared{.generation = order.file.generation,
                           .fingerprint = order.file.fingerprint,
                           .numerics_id = "fake"};
  if (mode == "prepare-die") std::raise(SIGKILL);
  if (mode == "prepare-hang") return;
  if (order.file.path == "damaged") prepared.failure = "a leaf is damaged; make it again";
  if (order.file.path == "other") ++prepared.fingerprint;
  link.send_prepared(prepared);
}

void serve(RankLink& link, const std::string& mode, int world_rank) {
  const Layout& layout = link.job().layout;
  RankTask task;
  link.set_activity(RankActivity::kIdle);
  while (link.next_task(task)) {
    if (const auto* order = std::get_if<WeightsOrder>(&task)) {
      obey(link, mode, *order);
      continue;
    }
    const auto& plan = std::get<StepPlan>(task);
    if (mode == "deadlock") {
      link.set_activity(RankActivity::kWaiting, 3, (world_rank + 1) % layout.n_ranks());
      sleep_for_ever();
    }
    link.set_activity(RankActivity::kComputing);
    if (mode == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(1000));
    link.tick();
    if (mode == "die-in-step") std::raise(SIGKILL);
    if (world_rank == layout.world_rank(layout.pp - 1, 0)) {
      link.send_result(answer(plan, world_rank));
    }
    link.set_activity(RankActivity::kIdle);
  }
  if (mode == "never-end") {
    std::signal(SIGTERM, SIG_IGN);
    sleep_for_ever();
  }
}

int run(std::map<std::string, std::string> options) {
  const std::string early = from_environment("FAKE_WORKER");
  if (early == "no-hello") sleep_for_ever();
  if (early == "exit") throw EnvironmentError("the fake cannot start; mend the fake");

  RankHello hello;
  if (options["--comm"] == "mpi") {
    hello.world_rank = std::stoi(from_environment("OMPI_COMM_WORLD_RANK"));
    hello.world_size = std::stoi(from_environment("OMPI_COMM_WORLD_SIZE"));
  } else {
    hello.world_rank = std::stoi(options["--rank"]);
    hello.world_size = std::stoi(options["--world"]);
  }
  hello.secret = from_environment("TRIREME_SECRET");
  hello.epoch = std::stoull("0" + from_environment("TRIREME_EPOCH"));
  hello.pid = getpid();
  hello.host = "fake";
  hello.build = build_id();

  const auto link = RankLink::connect(
      {.address = options["--coordinator"], .hello = hello, .connect_timeout_ms = 5000});
  const std::string mode = link->job().model_path;
  try {
    load(*link, mode, options["--region-fd"]);
  } catch (const EnvironmentError& error) {
    link->send_failure(error.what());
    throw;
  }
  link->ready_and_wait_start({.kv_blocks = 10 + hello.world_rank,
                              .numerics_id = "fake",
                              .device = "none",
                              .weight_bytes = 1000,
                              .kv_bytes = 10});
  serve(*link, mode, hello.world_rank);
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 2; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  try {
    return trireme::run(std::move(options));
  } catch (const trireme::EnvironmentError& error) {
    std::fprintf(stderr, "trireme: %s\n", error.what());
    return 1;
  }
}
