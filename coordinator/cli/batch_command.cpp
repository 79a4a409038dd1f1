#include <fmt/format.h>

#include <chrono>

#include "coordinator/batch/batch_line.h"
#include "coordinator/batch/batch_run.h"
#include "coordinator/cli/api_session.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/say.h"
#include "coordinator/http/generation_fields.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int kHandlerThreads = 2;
// For each sequence that can be computed, so that another is there when it ends.
constexpr int32_t kSequencesPerSlot = 2;
// Lines held for each of those: answers that are ready wait for longer ones before them.
constexpr int32_t kLinesPerSequence = 8;

int32_t sequences_at_once(const ClusterOptions& options) {
  return kSequencesPerSlot * options.n_replicas * options.max_sequences;
}

// The group's numerics: answers begun by one replica and by another are the same only if theirs
// are.
std::string numerics_of(InferenceCore& core) {
  std::string numerics;
  for (const ReplicaSnapshot& replica : core.replicas()) {
    if (numerics.empty()) numerics = replica.numerics_id;
    if (replica.numerics_id == numerics) continue;
    throw EnvironmentError(fmt::format(
        "the replicas do not compute the same bits ({}; {}), so the answers would depend on who "
        "gave them: use hosts of one kind, or one replica",
        numerics, replica.numerics_id));
  }
  if (numerics.empty()) {
    throw EnvironmentError("the ranks did not say in time how they compute; try again");
  }
  return numerics;
}

// All that decides an answer but its line.
std::string salt_of(ApiSession& served, const ModelInfo& model) {
  return fmt::format("trireme batch 1\n{}\n{}\n{}\n{}", served.session().core().weights()->id,
                     numerics_of(served.session().core()), model.context_length, model.id);
}

BatchRun::End run_batch(ApiSession& served, const BatchOptions& options, BatchProgress& last) {
  const ModelInfo model = served.model_info(/*created=*/0);
  const auto pool = std::make_shared<TaskPool>(kHandlerThreads);
  const auto context =
      std::make_shared<ApiContext>(served.session().core(), served.codec(), served.metrics(), model,
                                   pool, nullptr, served.session().guides());
  Progress progress("answering");
  const int32_t at_once = sequences_at_once(served.session().options());
  BatchRun::End end = BatchRun::End::kStopped;
  {
    BatchRun run(context, {.input = options.input,
                           .output = options.output,
                           .key = BatchKey(sha256_of_file(options.input), salt_of(served, model)),
                           .max_lines = kLinesPerSequence * at_once,
                           .allowance = [at_once](int32_t) { return at_once; },
                           .on_progress =
                               [&](const BatchProgress& now) {
                                 last = now;
                                 progress.update(now.done_bytes, now.total_bytes);
                               }});
    last = run.progress();
    if (last.n_done > 0) {
      say(stderr, "trireme: {} has the answers to {} lines; going on after them\n", options.output,
          last.n_done);
    }
    end = run.run();
  }
  if (end == BatchRun::End::kDone) progress.complete();
  pool->stop();
  return end;
}

}  // namespace

int batch_command(const BatchOptions& options) {
  ClusterOptions cluster = options.cluster;
  cluster.max_waiting = sequences_at_once(cluster) + static_cast<int32_t>(kMaxChoices);
  LineReader(options.input, kMaxBatchLineBytes);  // that it can be read, before anything is loaded
  ApiSession served(cluster);
  served.session().start();
  served.session().wait_serving();
  const auto begin = std::chrono::steady_clock::now();
  BatchProgress last;
  const BatchRun::End end = run_batch(served, options, last);
  if (end == BatchRun::End::kUnavailable) {
    throw EnvironmentError(served.session().hopeless().value_or("no group can answer"));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  say(stderr, "trireme: {} has {} lines, {} of them errors; {:.1f} s\n", options.output,
      last.n_done, last.n_failed, seconds);
  return 0;
}

}  // namespace trireme
