#include "coordinator/http/generation_job.h"

#include <algorithm>

#include "kernels/check.h"

namespace trireme {
namespace {

std::string sse_event(const std::string& json) { return "data: " + json + "\n\n"; }

}  // namespace

GenerationJob::GenerationJob(GenerationCall call, Parts parts)
    : call_(std::move(call)), parts_(std::move(parts)), choices_(call_.n_choices()) {
  TRIREME_CHECK(!choices_.empty());
  usage_.n_prompt_tokens = call_.n_prompt_tokens();
}

void GenerationJob::start() {
  post([self = shared_from_this()] { self->submit_all(); });
}

// ---- one task at a time ----

void GenerationJob::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (scheduled_) return;
    scheduled_ = true;
  }
  parts_.pool->post([self = shared_from_this()] { self->run_tasks(); });
}

void GenerationJob::run_tasks() {
  for (;;) {
    std::vector<std::function<void()>> tasks;
    {
      std::lock_guard lock(mutex_);
      if (tasks_.empty()) {
        scheduled_ = false;
        return;
      }
      tasks.swap(tasks_);
    }
    for (const auto& task : tasks) task();
    flush();
  }
}

// ---- submission ----

GenerateRequest GenerationJob::make_request(int index) const {
  GenerateRequest request;
  request.prompt_ids = prompt_of(index).ids;
  request.sampling = call_.sampling;
  request.max_new_tokens = call_.max_new_tokens;
  request.stop_token_ids = call_.stop_token_ids;
  request.ignore_eos = call_.ignore_eos;
  request.choice = static_cast<uint32_t>(index % call_.n);
  request.want_prompt_logprobs = call_.echo && call_.n_logprobs != kNoLogprobs;
  request.n_logprobs = std::max(call_.n_logprobs, 0);
  return request;
}

void GenerationJob::submit_all() {
  parts_.responder->on_disconnect([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->client_gone_ = true;
    self->post([self] { self->cancel_all(); });
  });
  n_open_ = static_cast<int>(choices_.size());
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    choices_[i].whole.index = i;
    choices_[i].text = parts_.codec.open_stream(call_.text, prompt_of(i).ids);
    const Result<RequestId> id = parts_.service.submit(
        make_request(i), [self = shared_from_this(), i](GenerateEvent&& event) {
          self->post([self, i, event = std::move(event)]() mutable {
            self->on_event(i, std::move(event));
          });
        });
    if (!id) {
      choices_[i].done = true;
      for (int k = i + 1; k < static_cast<int>(choices_.size()); ++k) choices_[k].done = true;
      return fail(parts_.refusal(id.error()));
    }
    choices_[i].request_id = *id;
  }
}

// ---- events ----

void GenerationJob::on_event(int index, GenerateEvent event) {
  Choice& choice = choices_[index];
  if (choice.done || ended_ || client_gone_) return;
  if (event.finish == FinishReason::kError) {
    choice.done = true;
    return fail({.status = 500,
                 .message = "generation failed: " + event.error,
                 .param = "",
                 .code = "generation_failed"});
  }
  if (event.finish == FinishReason::kCancelled) {
    choice.done = true;
    return fail({.status = 503,
                 .message = "the server ended this request because it is shutting down",
                 .param = "",
                 .code = "shutting_down",
                 .retry_after_seconds = 1});
  }
  if (event.finish == FinishReason::kNone && event.token_ids.empty()) return;
  ChoiceText part = open_part(index, event);
  add_tokens(index, event, &part);
  deliver(index, std::move(part));
}

// The part that this event's tokens go to: a choice's first one begins with the prompt's echo.
ChoiceText GenerationJob::open_part(int index, const GenerateEvent& event) {
  Choice& choice = choices_[index];
  ChoiceText part;
  part.index = index;
  part.text_offset = choice.text_offset;
  if (choice.opened) return part;
  choice.opened = true;
  if (!call_.echo) return part;
  const Prompt& prompt = prompt_of(index);
  part.text = prompt.text;
  if (call_.n_logprobs == kNoLogprobs) return part;
  TRIREME_CHECK(event.prompt_logprobs.size() + 1 == prompt.ids.size());
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    TokenInfo token;
    token.id = prompt.ids[i];
    token.has_logprob = i > 0;
    if (i > 0) token.logprob = event.prompt_logprobs[i - 1];
    part.tokens.push_back(std::move(token));
  }
  return part;
}

// A token that ended the generation is counted, but its text is not part of the answer.
bool GenerationJob::is_silent_stop(const GenerateEvent& event, size_t i) const {
  if (call_.text.include_stop_string) return false;
  const bool last = i + 1 == event.token_ids.size();
  if (last && event.finish == FinishReason::kStop) return true;
  return std::find(call_.stop_token_ids.begin(), call_.stop_token_ids.end(), event.token_ids[i]) !=
         call_.stop_token_ids.end();
}

void GenerationJob::add_tokens(int index, const GenerateEvent& event, ChoiceText* part) {
  Choice& choice = choices_[index];
  part->finish = event.finish;
  for (size_t i = 0; i < event.token_ids.size(); ++i) {
    ++usage_.n_output_tokens;
    if (call_.n_logprobs != kNoLogprobs) {
      TokenInfo token;
      token.id = event.token_ids[i];
      if (i < event.logprobs.size()) token.logprob = event.logprobs[i];
      if (i < event.top_logprobs.size()) token.top = event.top_logprobs[i];
      part->tokens.push_back(std::move(token));
    }
    if (is_silent_stop(event, i)) continue;
    TextStream::Piece piece = choice.text->push(event.token_ids[i]);
    part->text += piece.text;
    if (piece.stopped) {
      if (event.finish == FinishReason::kNone) {
        parts_.service.cancel(choice.request_id, FinishReason::kStop);
      }
      part->finish = FinishReason::kStop;
      break;
    }
  }
  if (part->finish == FinishReason::kNone) return;
  part->text += choice.text->finish();
  choice.done = true;
  --n_open_;
}

// ---- the answer ----

void GenerationJob::deliver(int index, ChoiceText part) {
  Choice& choice = choices_[index];
  const bool finished = part.finish != FinishReason::kNone;
  if (!call_.stream) {
    choice.whole.text += part.text;
    std::move(part.tokens.begin(), part.tokens.end(), std::back_inserter(choice.whole.tokens));
    choice.whole.finish = part.finish;
  } else if (finished || !part.text.empty() || !part.tokens.empty()) {
    const Usage* usage = call_.continuous_usage ? &usage_ : nullptr;
    if (!streaming_) {
      streaming_ = true;
      parts_.responder->start_stream();
      for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
        const std::string opening = parts_.format->opening(i, usage);
        if (!opening.empty()) outgoing_ += sse_event(opening);
      }
    }
    choice.text_offset += count_characters(part.text);
    outgoing_ += sse_event(parts_.format->chunk(part, usage));
  }
  if (n_open_ == 0) finish_answer();
}

void GenerationJob::finish_answer() {
  ended_ = true;
  if (call_.stream) {
    if (call_.include_usage) outgoing_ += sse_event(parts_.format->usage_chunk(usage_));
    outgoing_ += sse_event("[DONE]");
    flush();
    return parts_.responder->finish();
  }
  std::vector<ChoiceText> all;
  for (Choice& choice : choices_) all.push_back(std::move(choice.whole));
  HttpResponse response;
  response.body = parts_.format->reply(all, usage_);
  parts_.responder->reply(std::move(response));
}

void GenerationJob::fail(const ApiError& error) {
  cancel_all();
  if (!streaming_) return parts_.responder->reply(api_error_response(error));
  outgoing_ += sse_event(api_error_body(error));
  outgoing_ += sse_event("[DONE]");
  flush();
  parts_.responder->finish();
}

void GenerationJob::cancel_all() {
  ended_ = true;
  for (Choice& choice : choices_) {
    if (!choice.done) parts_.service.cancel(choice.request_id, FinishReason::kCancelled);
    choice.done = true;
  }
}

void GenerationJob::flush() {
  if (!outgoing_.empty()) parts_.responder->write(std::exchange(outgoing_, {}));
}

}  // namespace trireme
