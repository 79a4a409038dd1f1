// A generation job's other half: what it does with a journal.

#include "coordinator/http/generation_job.h"
#include "coordinator/http/kept_answer.h"
#include "kernels/check.h"

namespace trireme {

void GenerationJob::listen_to_journal() {
  parts_.kept->keeper->journal().on_written(parts_.kept->entry, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->post([job = self.get()] { job->on_written(); });
  });
}

// Before submission: what a coordinator before this one drew is told already.
void GenerationJob::keep() {
  const Kept& kept = *parts_.kept;
  listen_to_journal();
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    choices_[i].told = false;
    if (!kept.entry->log(i).empty()) tell_logged(i);
  }
}

void GenerationJob::on_written() {
  const Kept& kept = *parts_.kept;
  Journal& journal = kept.keeper->journal();
  const bool lost = journal.is_lost(kept.entry);
  if (journal.holds_end(kept.entry) || (ended_ && lost))
    return kept.keeper->remove(kept.entry->request().id);
  if (ended_) return;
  if (lost) {
    return fail({.status = 503,
                 .message = "the server's journal cannot be written now",
                 .param = "",
                 .code = "journal",
                 .retry_after_seconds = 5});
  }
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    if (!choices_[i].told && journal.may_tell(kept.entry, i)) tell_logged(i);
  }
}

// Its first tokens are safe: what came so far, and from now on at once.
void GenerationJob::tell_logged(int index) {
  Choice& choice = choices_[index];
  choice.told = true;
  told_any_ = true;
  const ChoiceLog& log = parts_.kept->entry->log(index);
  for (size_t i = 0; i < n_events(log) && !choice.done; ++i) write(index, event_at(log, i));
}

// Brings a writer to where the job is.
void GenerationJob::replay(AnswerWriter& writer, const StreamPosition& from) const {
  std::vector<const ChoiceLog*> logs;
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i)
    logs.push_back(choices_[i].told ? &parts_.kept->entry->log(i) : nullptr);
  replay_logs(writer, logs, from);
}

const JournaledRequest& GenerationJob::kept_request() const {
  TRIREME_CHECK(parts_.kept.has_value());
  return parts_.kept->entry->request();
}

Result<StreamPosition> GenerationJob::parse_position(const std::string& last_event_id) const {
  return trireme::parse_position(call_, last_event_id);
}

void GenerationJob::attach(ResponderPtr responder, StreamPosition from) {
  TRIREME_CHECK(parts_.kept.has_value());
  post([this, responder = std::move(responder), from = std::move(from)] {
    serve_client(responder, from);
  });
}

void GenerationJob::serve_client(const ResponderPtr& responder, const StreamPosition& from) {
  if (parts_.responder != nullptr && !ended_) {  // the client before, if it is still there
    flush();
    parts_.responder->finish();
  }
  parts_.kept->keeper->end_grace(parts_.kept->entry->request().id);
  parts_.responder = responder;
  begin_writing(from);
  replay(*writer_, from);
  if (ended_) end_.error.empty() ? writer_->finish() : writer_->fail(end_.error);
  streaming_ = true;
  responder->start_stream();
  const std::string rest = writer_->take();
  const std::string_view now = first_events(rest, parts_.kept->keeper->max_rest_bytes());
  responder->write(std::string(now));
  if (now.size() == rest.size() && !ended_) return listen_to_client();
  responder->finish();
  if (!ended_) client_went(client_);
}

void GenerationJob::reply_whole(ResponderPtr responder) {
  TRIREME_CHECK(parts_.kept.has_value());
  post([this, responder = std::move(responder)] {
    const Kept& kept = *parts_.kept;
    if (!ended_) return responder->reply(not_done_yet(kept.entry->request().id));
    if (!end_.error.empty()) return responder->reply(error_of(end_));
    AnswerWriter writer = make_writer({.form = AnswerWriter::Form::kWhole});
    replay(writer, {});
    responder->reply(writer.whole());
  });
}

void GenerationJob::give_up() {
  post([this] {
    if (!ended_ && parts_.responder == nullptr) give_up_now();
  });
}

void GenerationJob::give_up_now() {
  fail({.status = 410,
        .message = "the client went away and did not come back in time",
        .param = "",
        .code = "abandoned"});
}

void GenerationJob::end_kept(JournaledEnd end) {
  const Kept& kept = *parts_.kept;
  ended_ = true;
  end_ = end;
  // What the journal knows nothing of, nobody can ask for.
  if (!kept.keeper->journal().end(kept.entry, std::move(end)))
    kept.keeper->remove(kept.entry->request().id);
}

}  // namespace trireme
