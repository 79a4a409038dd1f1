// The answers of another coordinator in this process.

#include <spdlog/spdlog.h>

#include "coordinator/handover/api_state.h"
#include "coordinator/http/endpoints.h"
#include "coordinator/http/generation_kind.h"

namespace trireme {
namespace {

using Entries = std::map<std::string, Journal::EntryPtr>;

// What the file has not of an answer's logs: where it did not take the last of them.
void complete(Journal& journal, const Journal::EntryPtr& entry, const AnswerState& answer) {
  for (int i = 0; i < static_cast<int>(answer.choices.size()); ++i) {
    const ChoiceLog& log = answer.choices[static_cast<size_t>(i)].log;
    if (entry->log(i).prompt_logprobs.empty() && !log.prompt_logprobs.empty()) {
      GenerateEvent event;
      event.prompt_logprobs = log.prompt_logprobs;
      event.prompt_top_logprobs = log.prompt_top_logprobs;
      journal.append(entry, i, event);
    }
    for (size_t k = entry->log(i).n_tokens(); k < log.n_tokens(); ++k) {
      GenerateEvent event = event_at(log, k);
      event.numerics_id = log.numerics_id;
      journal.append(entry, i, event);
    }
  }
}

// None: the journal does not take it.
std::optional<GenerationJob::Kept> keep_again(const ApiContext& context, const AnswerState& answer,
                                              Entries& unfinished) {
  Journal& journal = context.keeper->journal();
  Journal::EntryPtr entry;
  if (const auto found = unfinished.find(answer.id); found != unfinished.end()) {
    entry = unfinished.extract(found).mapped();
  } else {
    Result<Journal::EntryPtr> made = journal.create(answer.request);
    if (!made) {
      spdlog::error("the answer {} cannot go on: {}", answer.id, made.error().message);
      return std::nullopt;
    }
    entry = *std::move(made);
  }
  complete(journal, entry, answer);
  return GenerationJob::Kept{context.keeper, std::move(entry)};
}

}  // namespace

void take_over_answers(const std::shared_ptr<ApiContext>& context,
                       const std::vector<AnswerState>& answers,
                       const std::map<int, ResponderPtr>& responders,
                       const GenerationJob::Listen& listen) {
  context->was_ready = true;
  Entries unfinished;
  if (context->keeper != nullptr) {
    for (Journal::EntryPtr& entry : context->keeper->journal().take_unfinished())
      unfinished.emplace(entry->request().id, entry);
  }
  for (const AnswerState& answer : answers) {
    std::optional<GenerationJob::Kept> kept;
    if (answer.kept && context->keeper != nullptr) {
      kept = keep_again(*context, answer, unfinished);
      if (!kept) continue;
    }
    const auto responder = responders.find(answer.connection);
    make_job(context, {.endpoint = answer.endpoint, .id = answer.id, .created = answer.created},
             answer.call, /*weights=*/nullptr,
             responder == responders.end() ? nullptr : responder->second, std::move(kept),
             context->keys.go_on(answer.call.tenant))
        ->take_over(answer, listen);
  }
  for (const auto& [id, entry] : unfinished) resume_answer(context, entry);
}

}  // namespace trireme
