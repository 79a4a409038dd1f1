#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/journal/journal_record.h"

// Private to coordinator/journal.

namespace trireme {

// The file of a journal: an SQLite database in WAL mode, locked for as long as it is open, readable
// by its owner only. What was committed is there after a kill -9; after a power failure the last
// commits may be missing. Not thread-safe. After construction everything throws SqliteError.
class JournalFile {
 public:
  using Row = int64_t;  // of a request; grows in order of arrival

  // Makes the file when there is none. Throws EnvironmentError: it cannot be opened, is in use, is
  // damaged, or is not of this version.
  explicit JournalFile(std::filesystem::path path);
  ~JournalFile();

  // Changes belong between begin() and commit(). rollback() undoes them, as does a new start.
  void begin();
  void commit();
  void rollback() noexcept;

  Row add_request(const JournaledRequest& request);
  // What a choice got, from token `position` on.
  void add_tokens(Row row, int32_t choice, size_t position, const ChoiceLog& tail);
  void end_request(Row row, const JournaledEnd& end, int64_t now_s);
  void count_resume(Row row);
  void forget_resumes();  // of all
  // Writes something small: does the file take it?
  void probe(int64_t now_s);

  void remove_ended_until(int64_t time_s);
  void remove_ended_beyond(int64_t n_kept);  // the ones that ended last stay
  int64_t n_ended();

  std::optional<JournaledAnswer> find(const std::string& id);
  std::vector<std::pair<Row, JournaledAnswer>> unfinished();
  int64_t used_bytes();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
