#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "coordinator/batch/batch_key.h"
#include "coordinator/batch/batch_output.h"
#include "coordinator/batch/line_reader.h"
#include "coordinator/http/endpoints.h"

namespace trireme {

struct BatchProgress {
  int64_t n_done = 0;  // lines
  int64_t n_failed = 0;
  uint64_t done_bytes = 0;  // of the input
  uint64_t total_bytes = 0;
};

struct BatchRunOptions {
  std::filesystem::path input;
  std::filesystem::path output;
  BatchKey key;
  std::string endpoint;    // the only one; empty: any
  std::string key_name;    // whose requests the lines are; empty: nobody's
  int64_t created = 0;     // of the answers
  int64_t expires = 0;     // seconds since 1970; 0: never
  int32_t max_lines = 64;  // held at once, answered or not
  // Sequences that may be computed now, given how many of this batch are. Asked often.
  std::function<int32_t(int32_t n_computing)> allowance;
  std::function<void(const BatchProgress&)> on_progress;  // after lines were written; may be empty
};

// Answers the lines of a file by the handlers' own parsers and writers, a bounded window of them at
// a time, and writes the answers in the lines' order. A line that is no good gets an answer that
// says so; one that the service cannot take now is tried again. Nothing in an answer depends on
// when or where it was computed.
class BatchRun {
 public:
  enum class End : uint8_t {
    kDone,
    kStopped,      // by stop()
    kExpired,      // lines that were not answered say so
    kUnavailable,  // no group can ever answer
  };

  // Takes up where the output ends. Throws EnvironmentError, of which a ForeignOutput is final; so
  // does run().
  BatchRun(std::shared_ptr<ApiContext> context, BatchRunOptions options);
  ~BatchRun();

  // So far.
  BatchProgress progress() const;
  // Until the end; what is still computed then is cancelled.
  End run();
  // From any thread.
  void stop();

 private:
  struct Mailbox;
  class LineResponder;
  using Clock = std::chrono::steady_clock;
  struct Held {
    int64_t number = 0;
    std::string text;  // until it is answered
    bool too_long = false;
    uint64_t end_offset = 0;                   // of the line in the input
    std::string custom_id = "null";            // JSON; once read
    int32_t n_sequences = 0;                   // being computed; 0: none
    std::string answer;                        // a line of the output; empty: none yet
    Clock::time_point not_before{};            // of another try
    std::shared_ptr<LineResponder> responder;  // while it is computed
    size_t bytes() const { return text.size() + answer.size(); }
  };

  bool read_ahead();
  bool start_lines();
  void start(Held& held);
  bool take_answers();
  void take_answer(Held& held, int status, const std::string& body);
  bool write_answers();
  void finish(Held& held, int status, const std::string& body);
  bool expire();
  void cancel_all();
  std::string name(const Held& held) const;

  const std::shared_ptr<ApiContext> context_;
  const BatchRunOptions options_;
  LineReader lines_;
  BatchOutput output_;
  const std::shared_ptr<Mailbox> mailbox_;
  std::deque<Held> held_;  // in order; the first is the next to be written
  size_t held_bytes_ = 0;
  int64_t n_read_ = 0;
  bool at_end_ = false;          // of the input
  int32_t n_computing_ = 0;      // sequences
  uint64_t written_offset_ = 0;  // of the input: behind the last line that is written
};

}  // namespace trireme
