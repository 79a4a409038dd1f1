// A generation job between two coordinators of one process.

#include "coordinator/handover/api_state.h"
#include "coordinator/http/generation_job.h"
#include "coordinator/http/kept_answer.h"

namespace trireme {
namespace {

GenerateEvent prompt_logprobs_of(const ChoiceLog& log) {
  GenerateEvent event;
  event.prompt_logprobs = log.prompt_logprobs;
  event.prompt_top_logprobs = log.prompt_top_logprobs;
  return event;
}

}  // namespace

std::optional<AnswerState> GenerationJob::state() const {
  const bool listened_to = parts_.responder != nullptr && parts_.responder->descriptor() >= 0;
  const bool begun = writer_ != nullptr;
  if (!begun || ended_ || abandoned_ || (!listened_to && !parts_.kept)) return std::nullopt;
  AnswerState state{.endpoint = parts_.name.endpoint,
                    .id = parts_.name.id,
                    .created = parts_.name.created,
                    .call = call_,
                    .connection = listened_to ? parts_.responder->descriptor() : -1,
                    .streaming = streaming_,
                    .told_any = told_any_,
                    .sent = writer_->sent(),
                    .kept = parts_.kept.has_value()};
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    state.choices.push_back({.request_id = choices_[i].request_id,
                             .done = choices_[i].done,
                             .told = choices_[i].told,
                             .log = log(i)});
  }
  if (!parts_.kept) return state;
  state.request = parts_.kept->entry->request();
  state.in_grace = parts_.kept->keeper->in_grace(state.id);
  return state;
}

// A beam search begins again: nothing of it was told, and it finds the same.
void GenerationJob::take_over(const AnswerState& answer, const Listen& listen) {
  begin_writing(answer.sent);
  streaming_ = answer.streaming;
  told_any_ = answer.told_any;
  n_open_ = 0;
  std::vector<const ChoiceLog*> told;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const AnswerState::Choice& given = answer.choices.at(i);
    choices_[i] = {.request_id = given.request_id, .done = given.done, .told = given.told};
    if (!parts_.kept) choices_[i].log = given.log;
    n_open_ += given.done ? 0 : 1;
    told.push_back(given.told ? &given.log : nullptr);
    // They may have come without a token.
    if (given.told) writer_->add(static_cast<int>(i), prompt_logprobs_of(given.log));
  }
  // The client has what this gives.
  replay_logs(*writer_, told, answer.sent);
  writer_->take();

  listen_to_client();
  if (call_.beam_search) return post([this] { start_searches(); });
  bool all_known = true;
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    if (!choices_[i].done) all_known &= listen(choices_[i].request_id, handler(i));
  }
  if (!all_known) {
    return post([this] {
      fail({.status = 500,
            .message = "generation failed: it was lost when the server was upgraded",
            .param = "",
            .code = "generation_failed"});
    });
  }
  if (!parts_.kept) return;
  listen_to_journal();
  if (answer.in_grace) parts_.kept->keeper->begin_grace(answer.id);
  post([this] { on_written(); });
}

}  // namespace trireme
