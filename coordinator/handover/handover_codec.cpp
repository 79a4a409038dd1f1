#include "coordinator/handover/handover_codec.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

// A shared constant is written as its value, or as null.
template <typename T>
struct nlohmann::adl_serializer<std::shared_ptr<const T>> {
  static void to_json(json& out, const std::shared_ptr<const T>& value) {
    if (value != nullptr) out = *value;
  }
  static void from_json(const json& in, std::shared_ptr<const T>& value) {
    value = in.is_null() ? nullptr : std::make_shared<const T>(in.get<T>());
  }
};

namespace trireme {

// What nlohmann/json needs to know of each type: its members' names.
#define TRIREME_FIELDS NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE

TRIREME_FIELDS(RankState, tick, activity, waiting_op, waiting_peer, loaded_bytes, total_bytes,
               busy_us, comm_us, stage_wait_us)
TRIREME_FIELDS(RankInfo, world_rank, host, device, pid, weight_bytes, kv_bytes, workspace_bytes,
               last_state)
TRIREME_FIELDS(SupervisedRank, info, kv_blocks, numerics_id)
TRIREME_FIELDS(SupervisorState, ranks, losses_ms, hung)
TRIREME_FIELDS(RankConnection, fd, rank, unread, last_heartbeat)
TRIREME_FIELDS(ProcessState, name, pid, pidfd)
TRIREME_FIELDS(EpochState, processes, output_fd, output_tail, log_bytes)
TRIREME_FIELDS(GroupState, epoch, serving, job, supervisor, listener, connections, processes,
               kv_memory, heartbeat_salt)

TRIREME_FIELDS(SamplingParams, temperature, top_p, top_k, seed, min_p)
TRIREME_FIELDS(TokenBias, token_id, bias)
TRIREME_FIELDS(LogitRules, presence_penalty, frequency_penalty, repetition_penalty, min_tokens,
               end_token_ids, biases, allowed_token_ids, bad_words)
TRIREME_FIELDS(Grammar, tag, text)
TRIREME_FIELDS(GenerateRequest, prompt_ids, sampling, max_new_tokens, stop_token_ids, ignore_eos,
               model_id, adapter_id, choice, want_prompt_logprobs, want_last_logits, trace,
               n_logprobs, output_ids, numerics_id, rules, n_prompt_logprobs, priority, tenant,
               cache_salt, grammar, want_embedding)
TRIREME_FIELDS(TokenLogprob, token_id, logprob)
TRIREME_FIELDS(TokenLog, request, output_ids, prompt_logprobs, n_prompt_logprobs, last_logits_given,
               prompt_top_logprobs, n_cached_prompt)
TRIREME_FIELDS(KvState, blocks, n_computed)
TRIREME_FIELDS(Sequence, id, log, kv, resumes, suspect, newly_suspect, struck, proof_length,
               numerics_id)
TRIREME_FIELDS(PrefixDomain, model_id, adapter_id, generation, cache_salt)
TRIREME_FIELDS(CachedBlock, block, parent, tokens, domain)
TRIREME_FIELDS(CachedBlocks, prefixes, unheld)
TRIREME_FIELDS(SchedulerState, epoch, last_step_id, n_blocks, sequences, cached)
TRIREME_FIELDS(ReplicaState, scheduler, group, numerics_id, out)
TRIREME_FIELDS(RequestMoments, submitted_us, planned_us, first_token_us, last_token_us,
               n_prompt_tokens, n_output_tokens)
TRIREME_FIELDS(RequestState, id, replica, numerics_told, moments)
TRIREME_FIELDS(WeightsFile, generation, path, fingerprint)
TRIREME_FIELDS(CoreState, last_id, weights, weights_before, replicas, requests)

TRIREME_FIELDS(ConnectionState, fd, phase, unread, unsent, route_label, key_name, keep_alive,
               chunked, streaming, answer_complete, end_after_answer)
TRIREME_FIELDS(Prompt, ids, text)
TRIREME_FIELDS(TextStreamOptions, stop, skip_special_tokens, include_stop_string, min_tokens)
TRIREME_FIELDS(MessageOptions, tools, reasoning, begins_in_reasoning)
TRIREME_FIELDS(TensorReply::Wanted, output, binary)
TRIREME_FIELDS(TensorReply, id, outputs, column, one_row, int64_ids)
TRIREME_FIELDS(GenerationCall, prompts, n, max_new_tokens, n_logprobs, sampling, stop_token_ids,
               text, ignore_eos, echo, stream, include_usage, continuous_usage, rules,
               n_prompt_logprobs, return_token_ids, tokens_as_ids, priority, n_best, beam_search,
               length_penalty, search_end_ids, request_id, tenant, cache_salt, tell_cached, grammar,
               grammar_field, message, response_fields, tensors)
TRIREME_FIELDS(ChoiceLog, token_ids, logprobs, top_logprobs, prompt_logprobs, numerics_id,
               n_cached_tokens, finish, prompt_top_logprobs, n_guessed, n_guessed_right)
TRIREME_FIELDS(StreamPosition::Choice, n_tokens, finished)
TRIREME_FIELDS(StreamPosition, choices, usage, n_events)
TRIREME_FIELDS(JournaledRequest, id, endpoint, key_name, weights, body, prompts, created, seed,
               max_new_tokens, n_choices, with_logprobs)
TRIREME_FIELDS(AnswerState::Choice, request_id, done, told, log)
TRIREME_FIELDS(AnswerState, endpoint, id, created, call, choices, connection, streaming, told_any,
               sent, kept, in_grace, request)
TRIREME_FIELDS(PoolingState, endpoint, key_name, body, connection)
TRIREME_FIELDS(ApiState, listener, connections, answers, pooling)

TRIREME_FIELDS(MetricSeries, name, labels, value, buckets)
TRIREME_FIELDS(MetricsState, series, followed)

TRIREME_FIELDS(HandoverState, secret, environment_key, run_folder, run_folder_lock, model,
               served_name, replica_hosts, asker, held_at_ms, core, api, metrics)

#undef TRIREME_FIELDS

namespace {

using Json = nlohmann::json;

std::string version_line() { return fmt::format("trireme handover {}\n", kHandoverVersion); }

}  // namespace

std::string encode_handover(const HandoverState& state) {
  std::string bytes = version_line();
  Json::to_cbor(Json(state), bytes);
  return bytes;
}

Result<HandoverState> decode_handover(const std::string& bytes) {
  const std::string version = version_line();
  if (!bytes.starts_with(version))
    return Error{"it was written by a program with another form of handover", ""};
  try {
    return Json::from_cbor(bytes.begin() + static_cast<std::ptrdiff_t>(version.size()), bytes.end())
        .get<HandoverState>();
  } catch (const Json::exception& error) {
    return Error{std::string("it is malformed: ") + error.what(), ""};
  }
}

std::vector<int> descriptors(const HandoverState& state) {
  std::vector<int> all = {state.run_folder_lock, state.asker, state.api.listener};
  for (const ConnectionState& connection : state.api.connections) all.push_back(connection.fd);
  for (const ReplicaState& replica : state.core.replicas) {
    const GroupState& group = replica.group;
    all.push_back(group.listener);
    all.push_back(group.processes.output_fd);
    all.insert(all.end(), group.kv_memory.begin(), group.kv_memory.end());
    for (const RankConnection& connection : group.connections) all.push_back(connection.fd);
    for (const ProcessState& process : group.processes.processes) all.push_back(process.pidfd);
  }
  std::erase(all, -1);
  return all;
}

}  // namespace trireme
