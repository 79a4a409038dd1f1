#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/http/generation_call.h"
#include "coordinator/http/stream_position.h"
#include "coordinator/journal/journal_record.h"
#include "coordinator/serving/inference_service.h"

namespace trireme {

// A client's connection between two bytes.
struct ConnectionState {
  enum class Phase : uint8_t { kIdle, kAnswering, kLingering };
  int fd = -1;
  Phase phase = Phase::kIdle;
  std::string unread;  // of its next request
  std::string unsent;
  std::string route_label;
  std::string key_name;
  bool keep_alive = false;
  bool chunked = false;
  bool streaming = false;
  bool answer_complete = false;
  bool end_after_answer = false;
};

// An answer that is not complete.
struct AnswerState {
  struct Choice {
    RequestId request_id = 0;
    bool done = false;
    bool told = false;
    ChoiceLog log;
  };
  std::string endpoint;
  std::string id;
  int64_t created = 0;
  GenerationCall call;
  std::vector<Choice> choices;
  int connection = -1;  // its client's descriptor; -1: nobody listens
  bool streaming = false;
  bool told_any = false;
  StreamPosition sent;
  bool kept = false;         // in the journal
  bool in_grace = false;     // its client is gone and may come back
  JournaledRequest request;  // of a kept one; without body and prompts once the file has them
};

// A request for numbers that is not answered: it is begun again.
struct PoolingState {
  std::string endpoint;
  std::string key_name;
  std::string body;
  int connection = -1;
};

struct ApiState {
  int listener = -1;
  std::vector<ConnectionState> connections;
  std::vector<AnswerState> answers;
  std::vector<PoolingState> pooling;
};

}  // namespace trireme
