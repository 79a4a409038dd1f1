#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http/answer_writer.h"
#include "coordinator/http/http_message.h"
#include "coordinator/journal/journal_record.h"

namespace trireme {

// Gives a writer all that the logs of an answer's choices hold; null for one that is not to be told
// yet. What the client has already comes first, so that the usage in what follows counts all of it.
void replay_logs(AnswerWriter& writer, const std::vector<const ChoiceLog*>& logs,
                 const StreamPosition& from);

// Where a client of an answer was; an error when it is no event's id.
Result<StreamPosition> parse_position(const GenerationCall& call, const std::string& last_event_id);

// As many whole events at the beginning of `bytes` as fit into max_bytes, but one at least.
std::string_view first_events(std::string_view bytes, size_t max_bytes);

// 202, for who asks for a whole answer that is not.
HttpResponse not_done_yet(const std::string& id);

// The reply to who asks for an answer that ended with an error.
HttpResponse error_of(const JournaledEnd& end);

}  // namespace trireme
