#include "coordinator/http/answer_writer.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "coordinator/journal/choice_log.h"
#include "kernels/check.h"

namespace trireme {
namespace {

// Behind what the part has already.
void add_calls(std::vector<ToolCallPart>&& calls, ChoiceText* part) {
  for (ToolCallPart& call : calls) {
    const auto same = std::find_if(part->calls.begin(), part->calls.end(),
                                   [&](const auto& other) { return other.index == call.index; });
    if (same == part->calls.end()) {
      part->calls.push_back(std::move(call));
    } else {
      same->arguments += call.arguments;
    }
  }
}

void add_message(MessagePart&& message, ChoiceText* part) {
  part->text += message.content;
  part->reasoning += message.reasoning;
  add_calls(std::move(message.calls), part);
}

}  // namespace

AnswerWriter::AnswerWriter(const GenerationCall& call, const TextCodec& codec,
                           std::unique_ptr<ReplyFormat> format, Options options)
    : call_(call),
      format_(std::move(format)),
      options_(std::move(options)),
      choices_(static_cast<size_t>(call.n_choices())),
      sent_(options_.from) {
  for (int i = 0; i < call.n_choices(); ++i) {
    choices_[i].whole.index = i;
    choices_[i].text = codec.open_stream(call.text, prompt_of(i).ids);
    if (call.message.any()) choices_[i].message.emplace(call.message);
  }
  if (call.numbered()) {
    constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
    format_->skip_events(options_.form == Form::kStream ? sent_.n_events : kAll);
  } else {
    sent_.choices.resize(choices_.size());
  }
  usage_.n_prompt_tokens = call.n_prompt_tokens();
}

// Numbered events must not depend on how many tokens came at once: they get a part each.
AnswerWriter::Added AnswerWriter::add(int index, const GenerateEvent& event) {
  if (!call_.numbered() || event.token_ids.size() < 2) return add_part(index, event);
  ChoiceLog log;
  append_event(log, event, call_.uses_logprobs());
  Added added;
  for (size_t i = 0; i < n_events(log) && !added.ended; ++i)
    added = add_part(index, event_at(log, i));
  return added;
}

AnswerWriter::Added AnswerWriter::add_part(int index, const GenerateEvent& event) {
  Choice& choice = choices_[index];
  if (choice.done) return {};
  // They may come before the first token.
  if (!event.prompt_logprobs.empty()) {
    choice.prompt_logprobs = event.prompt_logprobs;
    choice.prompt_top_logprobs = event.prompt_top_logprobs;
  }
  if (event.finish == FinishReason::kNone && event.token_ids.empty()) return {};
  // What the first choice of a prompt found; the others find what that computed, too.
  if (call_.tell_cached && !choice.opened && index % call_.n == 0)
    usage_.n_cached_tokens += event.n_cached_tokens;
  if (call_.tell_cached) {
    usage_.n_guessed += event.n_guessed;
    usage_.n_guessed_right += event.n_guessed_right;
  }
  ChoiceText part = open_part(index);
  const bool by_stop_string = add_tokens(index, event, &part);
  choice.done = part.finish != FinishReason::kNone;
  deliver(index, std::move(part));
  return {.ended = choice.done, .by_stop_string = by_stop_string};
}

// The part that an event's tokens go to: a choice's first one begins with the prompt's echo.
ChoiceText AnswerWriter::open_part(int index) {
  Choice& choice = choices_[index];
  ChoiceText part;
  part.index = index;
  part.text_offset = choice.text_offset;
  if (choice.opened) return part;
  choice.opened = true;
  if (call_.return_token_ids) part.prompt_ids = prompt_of(index).ids;
  if (call_.n_prompt_logprobs != kNoLogprobs)
    part.prompt_tokens = prompt_tokens(index, call_.n_prompt_logprobs);
  if (!call_.echo) return part;
  part.text = prompt_of(index).text;
  if (call_.n_logprobs != kNoLogprobs) part.tokens = prompt_tokens(index, call_.n_logprobs);
  return part;
}

std::vector<TokenInfo> AnswerWriter::prompt_tokens(int index, int32_t n_top) const {
  const Choice& choice = choices_[index];
  const std::vector<int32_t>& ids = prompt_of(index).ids;
  TRIREME_CHECK(choice.prompt_logprobs.size() + 1 == ids.size());
  std::vector<TokenInfo> tokens(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    tokens[i].id = ids[i];
    tokens[i].has_logprob = i > 0;
    if (i == 0) continue;
    tokens[i].logprob = choice.prompt_logprobs[i - 1];
    if (n_top == 0) continue;
    const std::vector<TokenLogprob>& top = choice.prompt_top_logprobs.at(i - 1);
    const size_t n = std::min(top.size(), static_cast<size_t>(n_top));
    tokens[i].top.assign(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return tokens;
}

// A token that ended the generation is counted, but its text is not part of the answer.
bool AnswerWriter::is_silent_stop(const GenerateEvent& event, size_t i) const {
  if (call_.text.include_stop_string) return false;
  const bool last = i + 1 == event.token_ids.size();
  if (last && event.finish == FinishReason::kStop) return true;
  return std::find(call_.stop_token_ids.begin(), call_.stop_token_ids.end(), event.token_ids[i]) !=
         call_.stop_token_ids.end();
}

// True: they hold a stop string that the service knows nothing of.
bool AnswerWriter::add_tokens(int index, const GenerateEvent& event, ChoiceText* part) {
  Choice& choice = choices_[index];
  bool by_stop_string = false;
  part->finish = event.finish;
  for (size_t i = 0; i < event.token_ids.size(); ++i) {
    ++usage_.n_output_tokens;
    ++choice.n_tokens;
    if (i < event.logprobs.size()) choice.sum_logprob += static_cast<double>(event.logprobs[i]);
    if (call_.return_token_ids) part->token_ids.push_back(event.token_ids[i]);
    if (call_.n_logprobs != kNoLogprobs) {
      TokenInfo token;
      token.id = event.token_ids[i];
      if (i < event.logprobs.size()) token.logprob = event.logprobs[i];
      if (i < event.top_logprobs.size()) token.top = event.top_logprobs[i];
      part->tokens.push_back(std::move(token));
    }
    if (is_silent_stop(event, i)) continue;
    TextStream::Piece piece = choice.text->push(event.token_ids[i]);
    add_token_text(choice, piece.text, part);
    if (piece.stopped) {
      by_stop_string = event.finish == FinishReason::kNone;
      part->finish = FinishReason::kStop;
      break;
    }
  }
  if (part->finish != FinishReason::kNone) {
    add_text(choice, choice.text->finish(), part);
    if (choice.message) add_message(choice.message->finish(), part);
  }
  part->has_calls = choice.has_calls |= !part->calls.empty();
  return by_stop_string;
}

// A token that begins or ends the reasoning is one of it.
void AnswerWriter::add_token_text(Choice& choice, const std::string& text, ChoiceText* part) {
  const auto reasons = [&] { return choice.message && choice.message->in_reasoning(); };
  const bool before = reasons();
  add_text(choice, text, part);
  usage_.n_reasoning_tokens += before || reasons() ? 1 : 0;
}

// A token's text at a time: what a part holds is then the same however the tokens came.
void AnswerWriter::add_text(Choice& choice, const std::string& text, ChoiceText* part) {
  if (choice.message) return add_message(choice.message->feed(text), part);
  part->text += text;
}

void AnswerWriter::deliver(int index, ChoiceText part) {
  Choice& choice = choices_[index];
  const bool finished = part.finish != FinishReason::kNone;
  if (options_.form == Form::kWhole && call_.numbered()) {
    format_->chunk(part, nullptr);
    return;
  }
  if (options_.form == Form::kWhole) {
    choice.whole.text += part.text;
    const auto append = [](auto& to, auto& from) {
      std::move(from.begin(), from.end(), std::back_inserter(to));
    };
    append(choice.whole.tokens, part.tokens);
    append(choice.whole.token_ids, part.token_ids);
    append(choice.whole.prompt_ids, part.prompt_ids);
    append(choice.whole.prompt_tokens, part.prompt_tokens);
    choice.whole.finish = part.finish;
    choice.whole.reasoning += part.reasoning;
    choice.whole.has_calls = part.has_calls;
    add_calls(std::move(part.calls), &choice.whole);
    return;
  }
  const bool says = !part.text.empty() || !part.reasoning.empty() || !part.calls.empty();
  if (!finished && !says && part.tokens.empty() && part.token_ids.empty()) return;
  choice.text_offset += count_characters(part.text);
  if (options_.form == Form::kSilent) return;
  const Usage* usage = call_.continuous_usage ? &usage_ : nullptr;
  begin_stream(usage);
  if (has(index, {.n_tokens = choice.n_tokens, .finished = finished})) return;
  send(format_->chunk(part, usage));
}

// Whether the client has a choice's stream up to there; if not, it is about to. What it has of
// numbered events, the format leaves out.
bool AnswerWriter::has(int index, const StreamPosition::Choice& upto) {
  if (call_.numbered()) return false;
  StreamPosition::Choice& sent = sent_.choices[index];
  if (upto.n_tokens <= sent.n_tokens && (sent.finished || !upto.finished)) return true;
  sent = upto;
  return false;
}

// With the first part of any choice, what each of them begins with.
void AnswerWriter::begin_stream(const Usage* usage) {
  if (std::exchange(begun_, true)) return;
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    const ReplyEvents opening = format_->opening(i, usage);
    if (!opening.empty() && !has(i, {.n_tokens = 0})) send(opening);
  }
}

void AnswerWriter::send(const ReplyEvents& events) {
  for (const ReplyEvent& event : events) {
    ++sent_.n_events;
    if (options_.with_ids) outgoing_ += "id: " + sent_.text() + "\n";
    if (*event.name != '\0') outgoing_ += std::string("event: ") + event.name + "\n";
    outgoing_ += "data: " + event.data + "\n\n";
  }
}

void AnswerWriter::finish() {
  if (options_.form != Form::kStream) return;
  if (call_.include_usage && !std::exchange(sent_.usage, true)) send(format_->usage_chunk(usage_));
  if (!call_.numbered()) outgoing_ += "data: [DONE]\n\n";
}

void AnswerWriter::fail(const std::string& error_json) {
  if (options_.form != Form::kStream) return;
  if (call_.numbered()) {
    begin_stream(nullptr);
    return send(format_->failure(error_json));
  }
  outgoing_ += "data: " + error_json + "\n\ndata: [DONE]\n\n";
}

std::string AnswerWriter::take() { return std::exchange(outgoing_, {}); }

HttpResponse AnswerWriter::whole() {
  std::vector<ChoiceText> told;
  for (const int index : told_choices()) {
    told.push_back(std::move(choices_[index].whole));
    told.back().index = static_cast<int>(told.size()) - 1;
  }
  return format_->reply(told, usage_);
}

// With best_of, of each prompt those whose tokens are the most likely ones on average.
std::vector<int> AnswerWriter::told_choices() const {
  std::vector<int> all(choices_.size());
  std::iota(all.begin(), all.end(), 0);
  if (call_.n_best == 0) return all;
  const auto mean = [this](int index) {
    return choices_[index].sum_logprob / std::max(choices_[index].n_tokens, 1);
  };
  std::vector<int> told;
  for (auto first = all.begin(); first != all.end(); first += call_.n) {
    std::stable_sort(first, first + call_.n, [&](int a, int b) { return mean(a) > mean(b); });
    told.insert(told.end(), first, first + call_.n_best);
  }
  return told;
}

}  // namespace trireme
