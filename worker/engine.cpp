#include "worker/engine.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "model/packed_encodings.h"

namespace trireme {
namespace {

constexpr int32_t kMaxHeadRows = 16;  // logit rows computed at a time

StageParts stage_parts(const EngineParts& parts, const StageWeights& weights, const KvPool& kv,
                       ThreadPool& pool, std::shared_ptr<StageWorkspace> workspace) {
  return {.config = &parts.config,
          .shard = &parts.shard,
          .weights = &weights,
          .kernels = parts.kernels,
          .kv = &kv,
          .tp = parts.comms.tp.get(),
          .pp = parts.comms.pp.get(),
          .stream = {{}, pool.n_threads() > 1 ? &pool : nullptr, nullptr},
          .format = parts.format,
          .context_length = parts.context_length,
          .max_tokens = parts.max_batch_tokens,
          .max_logit_rows = kMaxHeadRows,
          .fuse = parts.fuse,
          .workspace = std::move(workspace)};
}

// Whether a sequence's rules leave any token of its mask. They do not hold where they leave none.
bool leaves_some(std::span<const float> ruled, std::span<const uint32_t> mask) {
  for (size_t w = 0; w < mask.size(); ++w) {
    for (uint32_t word = mask[w]; word != 0; word &= word - 1) {
      const size_t id = w * 32 + static_cast<size_t>(std::countr_zero(word));
      if (id < ruled.size() && std::isfinite(ruled[id])) return true;
    }
  }
  return false;
}

}  // namespace

std::string Engine::numerics_id(const KernelTable& kernels, const PackedEncodings& encodings,
                                DType kv_dtype) {
  return std::string("1/cpu/") + std::string(kernels.name) + "/" + encodings_text(encodings) +
         "/kv-" + dtype_name(kv_dtype);
}

uint64_t Engine::workspace_bytes(const EngineParts& parts) {
  return StageForward::workspace_bytes(parts.config, parts.shard, parts.format,
                                       parts.max_batch_tokens, kMaxHeadRows);
}

Engine::Engine(EngineParts parts)
    : parts_(std::move(parts)),
      pool_(parts_.n_threads, parts_.cpus),
      kv_(parts_.config, parts_.shard, parts_.kv_dtype, parts_.kv_blocks, {}, parts_.kv_file),
      batch_(parts_.max_slots, parts_.max_batch_tokens, parts_.context_length, parts_.kv_blocks),
      feed_(parts_.shard, parts_.comms, parts_.max_slots, parts_.max_plans_in_flight),
      processor_(parts_.max_slots, parts_.config.vocab_size, parts_.context_length),
      sampler_(*parts_.kernels, parts_.config.vocab_size) {
  add(make_generation(parts_.generation, std::move(parts_.weights)));
  workspace_ = generations_.front()->forward->workspace();
  head_rows_.reserve(static_cast<size_t>(parts_.max_batch_tokens));
  row_ids_.resize(kMaxHeadRows);
  log_sum_exp_.resize(kMaxHeadRows);
  sampled_.reserve(static_cast<size_t>(parts_.max_slots));
}

std::unique_ptr<Engine::Generation> Engine::make_generation(uint64_t number, StageWeights weights) {
  auto made = std::make_unique<Generation>(
      Generation{.number = number, .weights = std::move(weights), .forward = nullptr});
  made->forward =
      std::make_unique<StageForward>(stage_parts(parts_, made->weights, kv_, pool_, workspace_));
  return made;
}

void Engine::add(std::unique_ptr<Generation> generation) {
  TRIREME_CHECK(generations_.size() < kMaxGenerations);
  generations_.push_back(std::move(generation));
}

std::unique_ptr<Engine::Generation> Engine::remove(uint64_t number) {
  for (auto it = generations_.begin(); it != generations_.end(); ++it) {
    if ((*it)->number != number) continue;
    std::unique_ptr<Generation> removed = std::move(*it);
    generations_.erase(it);
    return removed;
  }
  return nullptr;
}

StageForward& Engine::forward_of(uint64_t generation) const {
  for (const std::unique_ptr<Generation>& each : generations_) {
    if (each->number == generation) return *each->forward;
  }
  TRIREME_CHECK_MSG(false, "a plan of weights that are not loaded");
  return *generations_.front()->forward;
}

bool Engine::step(const StepPlan& plan, StepResult& result) {
  result.epoch = plan.epoch;
  result.step_id = plan.step_id;
  result.world_rank = parts_.shard.layout.world_rank(parts_.shard.pp_rank, parts_.shard.tp_rank);
  result.sequences.clear();
  result.trace.clear();
  TraceSink sink(result.trace);
  TraceSink* trace = plan.trace ? &sink : nullptr;

  if (parts_.shard.is_first_stage()) feed_.before_step(plan, batch_);
  batch_.assign(plan);
  forward_ = &forward_of(plan.generation);
  forward_->run(batch_.tokens(), trace);
  sampled_.clear();
  if (parts_.shard.is_last_stage()) run_head(plan, result, trace);
  feed_.after_step(plan, sampled_, batch_);
  return plan.trace || (parts_.shard.is_last_stage() && parts_.shard.tp_rank == 0);
}

void Engine::collect_head_rows(const StepPlan& plan) {
  head_rows_.clear();
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequencePlan& sequence = plan.sequences[s];
    const auto n = static_cast<int32_t>(sequence.input_ids.size());
    TRIREME_CHECK(sequence.logprob_targets.empty() ||
                  sequence.logprob_targets.size() == sequence.input_ids.size());
    for (int32_t i = 0; i < n; ++i) {
      const bool last =
          i + 1 + sequence.n_guesses >= n && (sequence.sample || sequence.want_logits);
      const bool target = !sequence.logprob_targets.empty() &&
                          sequence.logprob_targets[static_cast<size_t>(i)] >= 0;
      if (last || target) {
        head_rows_.push_back({batch_.first_row(s) + i, static_cast<int32_t>(s), i});
      }
    }
  }
}

void Engine::run_head(const StepPlan& plan, StepResult& result, TraceSink* trace) {
  collect_head_rows(plan);
  const bool answers = parts_.shard.tp_rank == 0;
  if (answers) {
    result.sequences.resize(plan.sequences.size());
    for (size_t s = 0; s < plan.sequences.size(); ++s) {
      processor_.begin(plan.sequences[s]);
      result.sequences[s].request_id = plan.sequences[s].request_id;
      result.sequences[s].slot = plan.sequences[s].slot;
      const size_t n_targets = plan.sequences[s].logprob_targets.size();
      result.sequences[s].target_logprobs.assign(n_targets, 0.0F);
      if (plan.sequences[s].n_target_logprobs > 0)
        result.sequences[s].target_top_logprobs.resize(n_targets);
    }
  }
  for (size_t begin = 0; begin < head_rows_.size(); begin += kMaxHeadRows) {
    const size_t end = std::min(head_rows_.size(), begin + kMaxHeadRows);
    const auto n = static_cast<int32_t>(end - begin);
    for (int32_t i = 0; i < n; ++i) {
      row_ids_[static_cast<size_t>(i)] = head_rows_[begin + static_cast<size_t>(i)].row;
    }
    const Tensor logits = forward_->logits(row_ids_.data(), n, trace);
    if (!answers) continue;
    parts_.kernels->log_sum_exp(forward_->stream(),
                                make_tensor(log_sum_exp_.data(), DType::kF32, {n}), logits);
    for (int32_t i = 0; i < n; ++i) {
      const HeadRow& row = head_rows_[begin + static_cast<size_t>(i)];
      const std::span<const float> values(logits.as<float>() + i * logits.row_stride,
                                          static_cast<size_t>(logits.dim(1)));
      answer_row(plan, row, values, log_sum_exp_[static_cast<size_t>(i)],
                 result.sequences[static_cast<size_t>(row.sequence)]);
    }
  }
  if (answers) answer_hidden(plan, result);
}

void Engine::answer_hidden(const StepPlan& plan, StepResult& result) {
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    if (!plan.sequences[s].want_hidden) continue;
    const int32_t row = batch_.first_row(s + 1) - 1;
    const Tensor hidden = forward_->final_hidden(&row, 1);
    const auto* values = hidden.as<float>();
    result.sequences[s].hidden.assign(values, values + hidden.dim(1));
  }
}

void Engine::answer_row(const StepPlan& step, const HeadRow& row, std::span<const float> logits,
                        float log_sum_exp, SequenceResult& result) {
  const SequencePlan& plan = step.sequences[static_cast<size_t>(row.sequence)];
  const auto input = static_cast<size_t>(row.input);
  if (!plan.logprob_targets.empty() && plan.logprob_targets[input] >= 0) {
    const auto target = static_cast<size_t>(plan.logprob_targets[input]);
    TRIREME_CHECK(target < logits.size());
    result.target_logprobs[input] = logits[target] - log_sum_exp;
    if (plan.n_target_logprobs > 0) {
      sampler_.top_tokens(logits, log_sum_exp, plan.n_target_logprobs,
                          result.target_top_logprobs[input]);
    }
  }
  const size_t n_certain = plan.input_ids.size() - static_cast<size_t>(plan.n_guesses);
  if (input + 1 < n_certain) return;
  const size_t n_guessed = input + 1 - n_certain;  // behind which this row is
  if (n_guessed == 0 && plan.want_logits) result.logits.assign(logits.begin(), logits.end());
  if (!plan.sample) return;
  std::vector<DrawnToken>& drawn = result.drawn;
  if (drawn.size() < n_guessed) return;  // an earlier guess was wrong
  if (n_guessed > 0 && drawn.back().token_id != plan.input_ids[input]) return;
  const int32_t output_index = plan.output_index + static_cast<int32_t>(n_guessed);
  const int32_t id = draw(step.step_id, plan, output_index, logits);
  if (n_guessed == 0) sampled_.push_back(id);
  if (id < 0) return;
  processor_.add(plan.slot, id);
  // Of the model's own distribution, before mask, temperature and cuts.
  drawn.push_back({id, logits[static_cast<size_t>(id)] - log_sum_exp, {}});
  if (plan.n_logprobs > 0)
    sampler_.top_tokens(logits, log_sum_exp, plan.n_logprobs, drawn.back().top_logprobs);
}

// -1: the sequence has ended meanwhile.
int32_t Engine::draw(uint64_t step_id, const SequencePlan& plan, int32_t output_index,
                     std::span<const float> logits) {
  const auto index = static_cast<uint32_t>(output_index);
  const std::span<const float> ruled = processor_.apply(plan.slot, output_index, logits);
  if (!plan.masked) return sampler_.sample(ruled, plan.sampling, plan.choice, index);
  const TokenMask mask = parts_.wait_mask(step_id, plan.request_id);
  if (mask.words.empty()) return -1;
  const bool has_rules = ruled.data() != logits.data();
  return sampler_.sample_masked(has_rules && leaves_some(ruled, mask.words) ? ruled : logits,
                                mask.words, plan.sampling, plan.choice, index);
}

}  // namespace trireme
