#include "coordinator/http/kept_answer.h"

#include <algorithm>

#include "coordinator/http/reply_parts.h"
#include "kernels/check.h"

namespace trireme {

void replay_logs(AnswerWriter& writer, const std::vector<const ChoiceLog*>& logs,
                 const StreamPosition& from) {
  const auto known = [&](size_t choice) {
    const int32_t n_tokens = from.choices.empty() ? 0 : from.choices[choice].n_tokens;
    return std::min(static_cast<size_t>(std::max(n_tokens, 0)), n_events(*logs[choice]));
  };
  const auto give = [&](size_t choice, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      writer.add(static_cast<int>(choice), event_at(*logs[choice], i));
  };
  TRIREME_CHECK(from.choices.empty() || from.choices.size() == logs.size());
  for (size_t i = 0; i < logs.size(); ++i) {
    if (logs[i] != nullptr) give(i, 0, known(i));
  }
  for (size_t i = 0; i < logs.size(); ++i) {
    if (logs[i] != nullptr) give(i, known(i), n_events(*logs[i]));
  }
}

Result<StreamPosition> parse_position(const GenerationCall& call,
                                      const std::string& last_event_id) {
  if (call.numbered()) return StreamPosition::parse_number(last_event_id);
  return StreamPosition::parse(last_event_id, call.n_choices(), call.max_new_tokens);
}

std::string_view first_events(std::string_view bytes, size_t max_bytes) {
  constexpr std::string_view kEnd = "\n\n";
  if (bytes.size() <= max_bytes) return bytes;
  size_t end = max_bytes < kEnd.size() ? bytes.npos : bytes.rfind(kEnd, max_bytes - kEnd.size());
  if (end == bytes.npos) end = bytes.find(kEnd);
  return bytes.substr(0, end == bytes.npos ? end : end + kEnd.size());
}

HttpResponse not_done_yet(const std::string& id) {
  HttpResponse response = json_response({{"id", id}, {"status", "in_progress"}});
  response.status = 202;
  response.headers.emplace_back("Retry-After", "1");
  return response;
}

HttpResponse error_of(const JournaledEnd& end) {
  HttpResponse response;
  response.status = end.status;
  response.body = end.error;
  return response;
}

}  // namespace trireme
