#include "coordinator/http/search_fields.h"

#include <fmt/format.h>

#include "coordinator/http/generation_fields.h"

namespace trireme {
namespace {

constexpr double kMaxLengthPenalty = 10.0;

// A search compares whole continuations by the model's own probabilities: what changes those, or
// ends a text before it is compared, has no meaning in it.
void refuse_with_search(JsonFields& fields, const GenerationCall& call) {
  const auto refuse = [&](const char* name, bool given) {
    if (given) fields.fail(name, fmt::format("{} may not be given with use_beam_search", name));
  };
  refuse("stream", call.stream);
  refuse("stop", !call.text.stop.empty());
  refuse(call.grammar_field.c_str(), !call.grammar.empty());
  if (call.rules != nullptr) {
    fields.fail("use_beam_search",
                "use_beam_search may not be given with penalties, logit_bias, allowed_token_ids, "
                "bad_words or min_tokens");
  }
}

}  // namespace

void read_search_fields(JsonFields& fields, const ModelInfo& model, GenerationCall* call) {
  call->beam_search = fields.boolean("use_beam_search", false);
  call->length_penalty = static_cast<float>(
      fields.number("length_penalty", 1.0, -kMaxLengthPenalty, kMaxLengthPenalty));
  if (!call->beam_search) return;
  if (call->n > kMaxBeamWidth) {
    fields.fail("n", fmt::format("n must be at most {} with use_beam_search, not {}", kMaxBeamWidth,
                                 call->n));
  }
  refuse_with_search(fields, *call);
  call->search_end_ids = call->stop_token_ids;
  if (call->ignore_eos) return;
  call->search_end_ids.insert(call->search_end_ids.end(), model.eos_token_ids.begin(),
                              model.eos_token_ids.end());
}

void read_candidate_fields(JsonFields& fields, GenerationCall* call) {
  if (!fields.string("suffix", "").empty()) {
    fields.fail("suffix",
                "suffix is not supported: this model is not served with a "
                "fill-in-the-middle form; leave it out");
  }
  const auto best_of =
      static_cast<int32_t>(fields.integer("best_of", call->n, call->n, kMaxChoices));
  if (best_of == call->n) return;
  if (call->stream) fields.fail("best_of", "best_of above n may not be given with stream: true");
  if (call->beam_search) fields.fail("best_of", "best_of may not be given with use_beam_search");
  call->n_best = call->n;
  call->n = best_of;
}

}  // namespace trireme
