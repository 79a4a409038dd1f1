#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/journal/journal_record.h"
#include "kernels/result.h"

namespace trireme {

struct JournalOptions {
  std::filesystem::path path;
  int64_t retention_s = 600;               // of an answer that has ended
  int64_t max_bytes = int64_t{256} << 20;  // in use in the file; the oldest ended answers go first
  int64_t max_ended = 10000;               // answers
  int64_t max_unwritten_bytes = 64 << 20;  // of requests that wait for their first token
  int commit_interval_ms = 20;             // at most so often, but for an answer's first tokens
  int retry_interval_ms = 1000;            // after the file did not take a commit
  std::function<int64_t()> now_s;          // seconds since 1970; empty: the system's
  // One line when the file stops taking what is written, "" when it does again. On the journal's
  // thread.
  std::function<void(const std::string& problem)> on_problem;
};

// A live request and the log of its choices. Changed through the journal.
class JournalEntry {
 public:
  JournalEntry(JournaledAnswer answer, std::shared_ptr<std::atomic<int64_t>> unwritten_bytes);
  ~JournalEntry();
  JournalEntry(const JournalEntry&) = delete;
  JournalEntry& operator=(const JournalEntry&) = delete;

  const JournaledRequest& request() const { return request_; }
  int32_t n_resumes() const { return n_resumes_; }
  // For whoever appends to it.
  const ChoiceLog& log(int choice) const { return choices_[static_cast<size_t>(choice)].log; }

 private:
  friend class Journal;
  struct Choice {
    ChoiceLog log;
    size_t n_written = 0;         // tokens
    bool begun = false;           // it has a row in the file
    bool finish_written = false;  // with the last one
    bool unwritten() const;
  };
  void body_is_written();

  JournaledRequest request_;
  const int32_t n_resumes_;
  const std::shared_ptr<std::atomic<int64_t>> unwritten_bytes_;
  int64_t body_bytes_ = 0;  // with the prompts; counted in unwritten_bytes_

  // Under the journal's mutex:
  std::vector<Choice> choices_;
  std::optional<JournaledEnd> end_;
  bool end_written_ = false;
  int64_t row_ = 0;  // 0: not in the file
  bool appended_ = false;
  bool lost_ = false;
  bool dirty_ = false;
  std::function<void()> on_written_;
};

// Keeps requests and what they were given in a file, so that a coordinator started after a kill -9
// goes on with them. One thread of its own writes; what it has not written yet is in the entries,
// and since the same request gets the same tokens, none of it is lost with the process. Bounds: as
// many entries as there are live requests, and the options' bounds. Thread-safe.
class Journal {
 public:
  using EntryPtr = std::shared_ptr<JournalEntry>;

  // Throws EnvironmentError: the file cannot be opened, is in use, is damaged or of another
  // version.
  explicit Journal(JournalOptions options);
  // Writes what is left.
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // What a coordinator before this one did not end, in order of arrival. Once.
  std::vector<EntryPtr> take_unfinished();

  // A new request. Nothing of it is written before its first tokens are, all in one commit. An
  // error (param "journal") when the file is full or does not take what is written.
  Result<EntryPtr> create(JournaledRequest request);

  // Called on the journal's thread when something of the entry was written, or could not be.
  void on_written(const EntryPtr& entry, std::function<void()> callback);

  void append(const EntryPtr& entry, int choice, const GenerateEvent& event);
  // False: nothing of it is or will be in the file, and there is nothing to wait for.
  bool end(const EntryPtr& entry, JournaledEnd end);

  // Whether a client may hear of the choice: its numerics are in the file, so that no other ones
  // will ever go on with it. Also where the file took the request and is now full.
  bool may_tell(const EntryPtr& entry, int choice) const;
  // The request could not be written at all; it never will be.
  bool is_lost(const EntryPtr& entry) const;
  bool holds_end(const EntryPtr& entry) const;

  // Before another coordinator opens the file in this process: waits until all is in it, and counts
  // no running request as cut short. False when the file does not take it, or not in time.
  bool flush(std::chrono::steady_clock::time_point deadline);

  // From the file: what was committed.
  std::optional<JournaledAnswer> find(const std::string& id) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
