#include "comm/control/wire_convert.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "comm/control/secret_key.h"

namespace trireme::detail {
namespace {

constexpr int32_t kMaxRanks = 4096;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxTextBytes = 8192;  // of a path or a message

bool is_kv_dtype(uint32_t value) {
  return value == static_cast<uint32_t>(DType::kF32) ||
         value == static_cast<uint32_t>(DType::kBF16) || value == static_cast<uint32_t>(DType::kI8);
}

void to_wire(const WeightsFile& in, wire::Weights& out) {
  out.set_generation(in.generation);
  out.set_path(in.path);
  out.set_fingerprint(in.fingerprint);
}

const char* from_wire(const wire::Weights& in, WeightsFile& out) {
  if (in.path().size() > kMaxTextBytes) return "path";
  out.generation = in.generation();
  out.path = in.path();
  out.fingerprint = in.fingerprint();
  return nullptr;
}

void to_wire(const SequencePlan& in, wire::Sequence& out) {
  out.set_request_id(in.request_id);
  out.set_model_id(in.model_id);
  out.set_adapter_id(in.adapter_id);
  out.set_choice(in.choice);
  out.set_slot(in.slot);
  out.set_reset_slot(in.reset_slot);
  out.set_start_position(in.start_position);
  out.mutable_input_ids()->Add(in.input_ids.begin(), in.input_ids.end());
  out.mutable_new_blocks()->Add(in.new_blocks.begin(), in.new_blocks.end());
  out.set_sample(in.sample);
  out.set_output_index(in.output_index);
  out.set_temperature(in.sampling.temperature);
  out.set_top_p(in.sampling.top_p);
  out.set_top_k(in.sampling.top_k);
  out.set_seed(in.sampling.seed);
  out.set_want_logits(in.want_logits);
  out.mutable_logprob_targets()->Add(in.logprob_targets.begin(), in.logprob_targets.end());
  out.set_n_logprobs(in.n_logprobs);
  out.set_min_p(in.sampling.min_p);
  out.set_n_target_logprobs(in.n_target_logprobs);
  if (in.slot_rules != nullptr) detail::to_wire(*in.slot_rules, *out.mutable_slot_rules());
  out.set_masked(in.masked);
  out.set_want_hidden(in.want_hidden);
  out.set_n_guesses(in.n_guesses);
}

const char* from_wire(const wire::Sequence& in, SequencePlan& out) {
  if (in.slot() < 0) return "slot";
  if (in.start_position() < 0) return "start_position";
  if (!all_at_least(in.input_ids(), kTokenFromSlot)) return "input_ids";
  if (!all_at_least(in.new_blocks(), 0)) return "new_blocks";
  if (in.output_index() < 0) return "output_index";
  if (!std::isfinite(in.temperature()) || in.temperature() < 0) return "temperature";
  if (!std::isfinite(in.top_p()) || in.top_p() < 0) return "top_p";
  if (in.top_k() < 0) return "top_k";
  const int n_targets = in.logprob_targets_size();
  if (n_targets != 0 && n_targets != in.input_ids_size()) return "logprob_targets";
  if (!all_at_least(in.logprob_targets(), -1)) return "logprob_targets";
  if (in.n_logprobs() < 0) return "n_logprobs";
  if (!(in.min_p() >= 0 && in.min_p() <= 1)) return "min_p";
  if (in.n_target_logprobs() < 0) return "n_target_logprobs";
  const bool may_guess = in.sample() && !in.masked();
  if (in.n_guesses() < 0 || in.n_guesses() > (may_guess ? in.input_ids_size() - 1 : 0))
    return "n_guesses";
  out.slot_rules = nullptr;
  if (in.has_slot_rules()) {
    if (!in.reset_slot()) return "slot_rules";
    if (const char* wrong = detail::from_wire(in.slot_rules(), out.slot_rules)) return wrong;
  }

  out.request_id = in.request_id();
  out.model_id = in.model_id();
  out.adapter_id = in.adapter_id();
  out.choice = in.choice();
  out.slot = in.slot();
  out.reset_slot = in.reset_slot();
  out.start_position = in.start_position();
  out.input_ids.assign(in.input_ids().begin(), in.input_ids().end());
  out.new_blocks.assign(in.new_blocks().begin(), in.new_blocks().end());
  out.sample = in.sample();
  out.output_index = in.output_index();
  out.sampling = {.temperature = in.temperature(),
                  .top_p = in.top_p(),
                  .top_k = in.top_k(),
                  .seed = in.seed(),
                  .min_p = in.min_p()};
  out.want_logits = in.want_logits();
  out.logprob_targets.assign(in.logprob_targets().begin(), in.logprob_targets().end());
  out.n_logprobs = in.n_logprobs();
  out.n_target_logprobs = in.n_target_logprobs();
  out.masked = in.masked();
  out.want_hidden = in.want_hidden();
  out.n_guesses = in.n_guesses();
  return nullptr;
}

template <typename Wire>
void drawn_to_wire(const DrawnToken& in, Wire& out) {
  out.set_token_id(in.token_id);
  out.set_logprob(in.logprob);
  for (const TokenLogprob& top : in.top_logprobs) {
    out.add_top_ids(top.token_id);
    out.add_top_logprobs(top.logprob);
  }
}

void to_wire(const SequenceResult& in, wire::Outcome& out) {
  out.set_request_id(in.request_id);
  out.set_slot(in.slot);
  if (in.drawn.empty()) out.set_token_id(-1);
  for (size_t i = 0; i < in.drawn.size(); ++i)
    i == 0 ? drawn_to_wire(in.drawn[i], out) : drawn_to_wire(in.drawn[i], *out.add_further());
  out.mutable_logits()->Add(in.logits.begin(), in.logits.end());
  out.mutable_target_logprobs()->Add(in.target_logprobs.begin(), in.target_logprobs.end());
  out.mutable_hidden()->Add(in.hidden.begin(), in.hidden.end());
  for (const std::vector<TokenLogprob>& row : in.target_top_logprobs) {
    out.add_target_top_sizes(static_cast<int32_t>(row.size()));
    for (const TokenLogprob& top : row) {
      out.add_target_top_ids(top.token_id);
      out.add_target_top_logprobs(top.logprob);
    }
  }
}

template <typename Wire>
const char* drawn_from_wire(const Wire& in, DrawnToken& out) {
  if (in.token_id() < 0) return "token_id";
  if (!all_at_least(in.top_ids(), 0)) return "top_ids";
  if (in.top_ids_size() != in.top_logprobs_size()) return "top_logprobs";
  out.token_id = in.token_id();
  out.logprob = in.logprob();
  out.top_logprobs.resize(static_cast<size_t>(in.top_ids_size()));
  for (int i = 0; i < in.top_ids_size(); ++i) {
    out.top_logprobs[static_cast<size_t>(i)] = {in.top_ids(i), in.top_logprobs(i)};
  }
  return nullptr;
}

const char* target_tops_from_wire(const wire::Outcome& in, SequenceResult& out) {
  const int n_tops = in.target_top_ids_size();
  if (in.target_top_logprobs_size() != n_tops) return "target_top_logprobs";
  if (!all_at_least(in.target_top_ids(), 0)) return "target_top_ids";
  out.target_top_logprobs.clear();
  int n = 0;
  for (const int32_t size : in.target_top_sizes()) {
    if (size < 0 || size > n_tops - n) return "target_top_sizes";
    std::vector<TokenLogprob>& row = out.target_top_logprobs.emplace_back();
    for (const int end = n + size; n < end; ++n)
      row.push_back({in.target_top_ids(n), in.target_top_logprobs(n)});
  }
  return n == n_tops ? nullptr : "target_top_sizes";
}

const char* from_wire(const wire::Outcome& in, SequenceResult& out) {
  if (in.slot() < 0) return "slot";
  if (in.token_id() < -1) return "token_id";
  if (in.token_id() < 0 && in.further_size() > 0) return "further";
  out.drawn.resize(in.token_id() < 0 ? 0 : 1 + static_cast<size_t>(in.further_size()));
  for (size_t i = 0; i < out.drawn.size(); ++i) {
    const char* wrong = i == 0 ? drawn_from_wire(in, out.drawn[i])
                               : drawn_from_wire(in.further(static_cast<int>(i) - 1), out.drawn[i]);
    if (wrong != nullptr) return wrong;
  }
  out.request_id = in.request_id();
  out.slot = in.slot();
  out.logits.assign(in.logits().begin(), in.logits().end());
  out.target_logprobs.assign(in.target_logprobs().begin(), in.target_logprobs().end());
  out.hidden.assign(in.hidden().begin(), in.hidden().end());
  return target_tops_from_wire(in, out);
}

}  // namespace

void to_wire(const RankHello& in, wire::Hello& out) {
  out.set_secret(in.secret);
  out.set_epoch(in.epoch);
  out.set_world_rank(in.world_rank);
  out.set_world_size(in.world_size);
  out.set_pid(in.pid);
  out.set_host(in.host);
  out.set_build(in.build);
}

const char* from_wire(const wire::Hello& in, RankHello& out) {
  if (in.world_size() < 1 || in.world_size() > kMaxRanks) return "world_size";
  if (in.world_rank() < 0 || in.world_rank() >= in.world_size()) return "world_rank";
  if (in.pid() < 0) return "pid";
  if (in.secret().size() > kMaxNameBytes) return "secret";
  if (in.host().size() > kMaxNameBytes) return "host";
  if (in.build().size() > kMaxNameBytes) return "build";
  out.secret = in.secret();
  out.epoch = in.epoch();
  out.world_rank = in.world_rank();
  out.world_size = in.world_size();
  out.pid = in.pid();
  out.host = in.host();
  out.build = in.build();
  return nullptr;
}

void to_wire(const JobSpec& in, wire::Job& out) {
  for (const WeightsFile& file : in.weights) to_wire(file, *out.add_weights());
  out.set_model_path(in.model_path);
  out.set_tp(in.layout.tp);
  out.set_pp(in.layout.pp);
  out.set_hidden_size(in.hidden_size);
  out.set_n_threads(in.n_threads);
  out.set_replica(in.replica);
  out.set_n_replicas(in.n_replicas);
  out.set_context_length(in.context_length);
  out.set_max_slots(in.max_slots);
  out.set_max_batch_tokens(in.max_batch_tokens);
  out.set_kv_bytes(in.kv_bytes);
  out.set_kv_dtype(static_cast<uint32_t>(in.kv_dtype));
  out.set_fuse(in.fuse);
  out.set_max_plans_in_flight(in.max_plans_in_flight);
  out.set_heartbeat_ms(in.heartbeat_ms);
  out.set_silence_ms(in.silence_ms);
  out.set_cut_off_ms(in.cut_off_ms);
  out.set_comm_timeout_ms(in.comm_timeout_ms);
  out.set_kv_host(in.kv_host);
  out.set_heartbeat_salt(in.heartbeat_salt);
  wire::Memory& memory = *out.mutable_kv_memory();
  memory.set_pid(in.kv_memory.pid);
  memory.set_fd(in.kv_memory.fd);
  memory.set_device(in.kv_memory.device);
  memory.set_inode(in.kv_memory.inode);
}

const char* from_wire(const wire::Job& in, JobSpec& out) {
  if (in.tp() < 1 || in.tp() > kMaxRanks) return "tp";
  if (in.pp() < 1 || in.pp() > kMaxRanks / in.tp()) return "pp";
  if (in.hidden_size() < 0) return "hidden_size";
  if (in.n_threads() < 0) return "n_threads";
  if (in.n_replicas() < 1) return "n_replicas";
  if (in.replica() < 0 || in.replica() >= in.n_replicas()) return "replica";
  if (in.context_length() < 0) return "context_length";
  if (in.max_slots() < 0) return "max_slots";
  if (in.max_batch_tokens() < 0) return "max_batch_tokens";
  if (in.kv_bytes() < 0) return "kv_bytes";
  if (!is_kv_dtype(in.kv_dtype())) return "kv_dtype";
  if (in.max_plans_in_flight() < 1) return "max_plans_in_flight";
  if (in.heartbeat_ms() < 1) return "heartbeat_ms";
  if (in.silence_ms() < 1) return "silence_ms";
  if (in.cut_off_ms() < 0) return "cut_off_ms";
  if (in.comm_timeout_ms() < 1) return "comm_timeout_ms";
  if (in.kv_host().size() > kMaxNameBytes) return "kv_host";
  const size_t n_salt = in.heartbeat_salt().size();
  if (n_salt != 0 && n_salt != kSaltBytes) return "heartbeat_salt";
  const wire::Memory& memory = in.kv_memory();
  if (memory.pid() < 0 || memory.fd() < -1) return "kv_memory";
  if (in.weights_size() > static_cast<int>(kMaxGenerations)) return "weights";
  out.weights.resize(static_cast<size_t>(in.weights_size()));
  for (int i = 0; i < in.weights_size(); ++i) {
    const char* wrong = from_wire(in.weights(i), out.weights[static_cast<size_t>(i)]);
    if (wrong != nullptr) return wrong;
  }
  out.model_path = in.model_path();
  out.layout = {.tp = in.tp(), .pp = in.pp()};
  out.hidden_size = in.hidden_size();
  out.n_threads = in.n_threads();
  out.replica = in.replica();
  out.n_replicas = in.n_replicas();
  out.context_length = in.context_length();
  out.max_slots = in.max_slots();
  out.max_batch_tokens = in.max_batch_tokens();
  out.kv_bytes = in.kv_bytes();
  out.kv_dtype = static_cast<DType>(in.kv_dtype());
  out.fuse = in.fuse();
  out.max_plans_in_flight = in.max_plans_in_flight();
  out.heartbeat_ms = in.heartbeat_ms();
  out.silence_ms = in.silence_ms();
  out.cut_off_ms = in.cut_off_ms();
  out.comm_timeout_ms = in.comm_timeout_ms();
  out.kv_host = in.kv_host();
  out.heartbeat_salt = in.heartbeat_salt();
  out.kv_memory = {
      .pid = memory.pid(), .fd = memory.fd(), .device = memory.device(), .inode = memory.inode()};
  return nullptr;
}

void to_wire(const RankState& in, wire::State& out) {
  out.set_tick(in.tick);
  out.set_activity(static_cast<uint32_t>(in.activity));
  out.set_waiting_op(in.waiting_op);
  out.set_waiting_peer(in.waiting_peer);
  out.set_loaded_bytes(in.loaded_bytes);
  out.set_total_bytes(in.total_bytes);
  out.set_busy_us(in.busy_us);
  out.set_comm_us(in.comm_us);
  out.set_stage_wait_us(in.stage_wait_us);
}

const char* from_wire(const wire::State& in, RankState& out) {
  if (in.activity() > static_cast<uint32_t>(RankActivity::kWaiting)) return "activity";
  if (in.waiting_op() < 0) return "waiting_op";
  if (in.waiting_peer() < -1 || in.waiting_peer() >= kMaxRanks) return "waiting_peer";
  out.tick = in.tick();
  out.activity = static_cast<RankActivity>(in.activity());
  out.waiting_op = in.waiting_op();
  out.waiting_peer = in.waiting_peer();
  out.loaded_bytes = in.loaded_bytes();
  out.total_bytes = in.total_bytes();
  out.busy_us = in.busy_us();
  out.comm_us = in.comm_us();
  out.stage_wait_us = in.stage_wait_us();
  return nullptr;
}

void to_wire(const RankReady& in, wire::Ready& out) {
  out.set_kv_blocks(in.kv_blocks);
  out.set_numerics_id(in.numerics_id);
  out.set_device(in.device);
  out.set_weight_bytes(in.weight_bytes);
  out.set_kv_bytes(in.kv_bytes);
  out.set_kv_kept(in.kv_kept);
  out.set_workspace_bytes(in.workspace_bytes);
}

const char* from_wire(const wire::Ready& in, RankReady& out) {
  if (in.kv_blocks() < 0) return "kv_blocks";
  if (in.kv_kept() < 0) return "kv_kept";
  if (in.numerics_id().size() > kMaxNameBytes) return "numerics_id";
  if (in.device().size() > kMaxNameBytes) return "device";
  out.kv_blocks = in.kv_blocks();
  out.numerics_id = in.numerics_id();
  out.device = in.device();
  out.weight_bytes = in.weight_bytes();
  out.kv_bytes = in.kv_bytes();
  out.kv_kept = in.kv_kept();
  out.workspace_bytes = in.workspace_bytes();
  return nullptr;
}

void to_wire(const StepPlan& in, wire::Plan& out) {
  out.set_epoch(in.epoch);
  out.set_step_id(in.step_id);
  out.set_generation(in.generation);
  out.set_trace(in.trace);
  out.set_feed_samples(in.feed_samples);
  out.mutable_sequences()->Reserve(static_cast<int>(in.sequences.size()));
  for (const SequencePlan& sequence : in.sequences) to_wire(sequence, *out.add_sequences());
}

const char* from_wire(const wire::Plan& in, StepPlan& out) {
  out.epoch = in.epoch();
  out.step_id = in.step_id();
  out.generation = in.generation();
  out.trace = in.trace();
  out.feed_samples = in.feed_samples();
  out.sequences.resize(static_cast<size_t>(in.sequences_size()));
  for (int i = 0; i < in.sequences_size(); ++i) {
    const char* wrong = from_wire(in.sequences(i), out.sequences[static_cast<size_t>(i)]);
    if (wrong != nullptr) return wrong;
  }
  return nullptr;
}

void to_wire(const StepResult& in, wire::Step& out) {
  out.set_epoch(in.epoch);
  out.set_step_id(in.step_id);
  out.set_world_rank(in.world_rank);
  for (const SequenceResult& sequence : in.sequences) to_wire(sequence, *out.add_sequences());
  for (const TraceEntry& entry : in.trace) {
    out.add_trace_layer(entry.layer);
    out.add_trace_op(entry.op);
    out.add_trace_unit(entry.unit);
    out.add_trace_hash(entry.hash);
  }
}

const char* from_wire(const wire::Step& in, StepResult& out) {
  if (in.world_rank() < 0 || in.world_rank() >= kMaxRanks) return "world_rank";
  const int n_trace = in.trace_hash_size();
  if (in.trace_layer_size() != n_trace || in.trace_op_size() != n_trace ||
      in.trace_unit_size() != n_trace) {
    return "trace";
  }
  out.epoch = in.epoch();
  out.step_id = in.step_id();
  out.world_rank = in.world_rank();
  out.sequences.resize(static_cast<size_t>(in.sequences_size()));
  for (int i = 0; i < in.sequences_size(); ++i) {
    const char* wrong = from_wire(in.sequences(i), out.sequences[static_cast<size_t>(i)]);
    if (wrong != nullptr) return wrong;
  }
  out.trace.resize(static_cast<size_t>(n_trace));
  for (int i = 0; i < n_trace; ++i) {
    if (in.trace_layer(i) < -1 || in.trace_op(i) < 0 || in.trace_unit(i) < 0) return "trace";
    out.trace[static_cast<size_t>(i)] = {.layer = in.trace_layer(i),
                                         .op = in.trace_op(i),
                                         .unit = in.trace_unit(i),
                                         .hash = in.trace_hash(i)};
  }
  return nullptr;
}

void to_wire(const TokenMask& in, wire::Mask& out) {
  out.set_epoch(in.epoch);
  out.set_step_id(in.step_id);
  out.set_request_id(in.request_id);
  out.mutable_words()->Add(in.words.begin(), in.words.end());
}

const char* from_wire(const wire::Mask& in, TokenMask& out) {
  const bool empty = in.words().empty();
  const auto is_set = [](uint32_t word) { return word != 0; };
  if (!empty && std::none_of(in.words().begin(), in.words().end(), is_set)) return "words";
  out.epoch = in.epoch();
  out.step_id = in.step_id();
  out.request_id = in.request_id();
  out.words.assign(in.words().begin(), in.words().end());
  return nullptr;
}

void to_wire(const WeightsOrder& in, wire::WeightsOrder& out) {
  out.set_kind(static_cast<uint32_t>(in.kind));
  to_wire(in.file, *out.mutable_file());
}

const char* from_wire(const wire::WeightsOrder& in, WeightsOrder& out) {
  if (in.kind() > static_cast<uint32_t>(WeightsOrder::Kind::kDrop)) return "kind";
  out.kind = static_cast<WeightsOrder::Kind>(in.kind());
  return from_wire(in.file(), out.file);
}

void to_wire(const WeightsPrepared& in, wire::WeightsPrepared& out) {
  out.set_generation(in.generation);
  out.set_fingerprint(in.fingerprint);
  out.set_numerics_id(in.numerics_id);
  out.set_failure(in.failure.substr(0, kMaxTextBytes));
}

const char* from_wire(const wire::WeightsPrepared& in, WeightsPrepared& out) {
  if (in.numerics_id().size() > kMaxNameBytes) return "numerics_id";
  if (in.failure().size() > kMaxTextBytes) return "failure";
  out.generation = in.generation();
  out.fingerprint = in.fingerprint();
  out.numerics_id = in.numerics_id();
  out.failure = in.failure();
  return nullptr;
}

}  // namespace trireme::detail
