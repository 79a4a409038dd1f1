#include "coordinator/journal/journal_file.h"

#include <sqlite3.h>

#include <algorithm>

#include "coordinator/journal/journal_blob.h"
#include "coordinator/journal/private_db.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int64_t kMostChoices = 4096;  // more than any request may have

constexpr const char* kSchema =
    "CREATE TABLE requests(row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, endpoint TEXT, "
    "key_name TEXT, weights TEXT, body BLOB, prompts BLOB, created INTEGER, seed INTEGER, "
    "max_new_tokens INTEGER, n_choices INTEGER, with_logprobs INTEGER, ended INTEGER, n_resumes "
    "INTEGER DEFAULT 0, "
    "status INTEGER, error TEXT);"  // ended: seconds since 1970, 0: it runs
    "CREATE INDEX ended_requests ON requests(ended) WHERE ended > 0;"
    "CREATE TABLE tokens(request INTEGER REFERENCES requests(row) ON DELETE CASCADE, "
    "choice INTEGER, position INTEGER, ids BLOB, logprobs BLOB, top_logprobs BLOB, "
    "prompt_logprobs BLOB, numerics TEXT, cached_tokens INTEGER, finish INTEGER, "
    "prompt_top_logprobs BLOB, "
    "PRIMARY KEY(request, choice, position)) WITHOUT ROWID;"
    "CREATE TABLE probes(only_row INTEGER PRIMARY KEY CHECK(only_row = 1), time INTEGER);";

constexpr const char* kRequestColumns =
    "SELECT row, id, endpoint, key_name, weights, body, prompts, created, seed, max_new_tokens, "
    "n_choices, with_logprobs, ended, n_resumes, status, error FROM requests ";

[[noreturn]] void damaged(const std::string& what) { throw SqliteError(SQLITE_CORRUPT, what); }

template <typename T>
T checked(std::optional<T> value) {
  if (!value) damaged("a row is malformed");
  return *std::move(value);
}

constexpr PrivateDb kJournalDb = {
    .noun = "journal",
    .option = "--journal",
    .lost = "the answers in it are lost",
    .unfinished = "let the build that wrote it finish its answers",
    .application_id = 0x5472694A,  // "TriJ"
    .version = 3,
    .schema = kSchema,
};

}  // namespace

struct JournalFile::State {
  explicit State(const std::filesystem::path& path) : db(open_private_db(path, kJournalDb)) {}

  std::unique_ptr<SqliteDb> db;
  SqliteStatement insert_request{
      *db,
      "INSERT INTO requests(id, endpoint, key_name, weights, body, prompts, created, seed, "
      "max_new_tokens, n_choices, with_logprobs, ended) "
      "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"};
  SqliteStatement insert_tokens{*db, "INSERT INTO tokens VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"};
  SqliteStatement end{*db, "UPDATE requests SET ended = ?, status = ?, error = ? WHERE row = ?"};
  SqliteStatement resume{*db, "UPDATE requests SET n_resumes = n_resumes + 1 WHERE row = ?"};
  SqliteStatement progress{*db,
                           "UPDATE requests SET n_resumes = 0 WHERE row = ? AND n_resumes > 0"};
  SqliteStatement probe{*db, "INSERT OR REPLACE INTO probes VALUES(1, ?)"};
  SqliteStatement remove_old{*db, "DELETE FROM requests WHERE ended > 0 AND ended <= ?"};
  SqliteStatement remove_beyond{
      *db,
      "DELETE FROM requests WHERE row IN (SELECT row FROM requests WHERE ended > 0 "
      "ORDER BY ended DESC, row DESC LIMIT -1 OFFSET ?)"};
  SqliteStatement select_tokens{*db,
                                "SELECT choice, position, ids, logprobs, top_logprobs, "
                                "prompt_logprobs, numerics, cached_tokens, finish, "
                                "prompt_top_logprobs FROM tokens WHERE request = ? "
                                "ORDER BY choice, position"};

  JournaledAnswer read(const SqliteStatement& row);
  void read_tokens(JournalFile::Row row, JournaledAnswer& answer);
};

JournalFile::JournalFile(std::filesystem::path path) {
  try {
    state_ = std::make_unique<State>(path);
    unfinished();  // so that nothing in them is malformed later
  } catch (const SqliteError& error) {
    explain_private_db(path, kJournalDb, error);
  }
}

JournalFile::~JournalFile() = default;

void JournalFile::begin() { state_->db->execute("BEGIN IMMEDIATE"); }
void JournalFile::commit() { state_->db->execute("COMMIT"); }
void JournalFile::rollback() noexcept { state_->db->rollback(); }

JournalFile::Row JournalFile::add_request(const JournaledRequest& request) {
  state_->insert_request.start()
      .set_text(request.id)
      .set_text(request.endpoint)
      .set_text(request.key_name)
      .set_text(request.weights)
      .set_blob(std::as_bytes(std::span(request.body)))
      .set_blob(prompts_blob(request.prompts))
      .set(request.created)
      .set(static_cast<int64_t>(request.seed))
      .set(request.max_new_tokens)
      .set(request.n_choices)
      .set(request.with_logprobs ? 1 : 0)
      .run();
  return state_->db->last_row();
}

void JournalFile::add_tokens(Row row, int32_t choice, size_t position, const ChoiceLog& tail) {
  state_->insert_tokens.start()
      .set(row)
      .set(choice)
      .set(static_cast<int64_t>(position))
      .set_blob(ids_blob(tail.token_ids))
      .set_blob(floats_blob(tail.logprobs))
      .set_blob(tops_blob(tail.top_logprobs))
      .set_blob(floats_blob(tail.prompt_logprobs))
      .set_text(tail.numerics_id)
      .set(tail.n_cached_tokens)
      .set(static_cast<int64_t>(tail.finish))
      .set_blob(tops_blob(tail.prompt_top_logprobs))
      .run();
  state_->progress.start().set(row).run();
}

void JournalFile::end_request(Row row, const JournaledEnd& end, int64_t now_s) {
  state_->end.start().set(now_s).set(end.status).set_text(end.error).set(row).run();
}

void JournalFile::count_resume(Row row) { state_->resume.start().set(row).run(); }

void JournalFile::forget_resumes() {
  state_->db->execute("UPDATE requests SET n_resumes = 0 WHERE ended = 0 AND n_resumes > 0");
}

void JournalFile::probe(int64_t now_s) { state_->probe.start().set(now_s).run(); }

void JournalFile::remove_ended_until(int64_t time_s) {
  state_->remove_old.start().set(time_s).run();
}

void JournalFile::remove_ended_beyond(int64_t n_kept) {
  state_->remove_beyond.start().set(n_kept).run();
}

JournaledAnswer JournalFile::State::read(const SqliteStatement& row) {
  JournaledAnswer answer;
  JournaledRequest& request = answer.request;
  request.id = row.text(1);
  request.endpoint = row.text(2);
  request.key_name = row.text(3);
  request.weights = row.text(4);
  request.body = row.text(5);
  request.prompts = checked(read_prompts(row.blob(6)));
  request.created = row.integer(7);
  request.seed = static_cast<uint64_t>(row.integer(8));
  request.max_new_tokens = static_cast<int32_t>(row.integer(9));
  request.n_choices = static_cast<int32_t>(row.integer(10));
  request.with_logprobs = row.integer(11) != 0;
  if (row.integer(10) < 1 || row.integer(10) > kMostChoices) damaged("a request has no choices");
  answer.ended = row.integer(12) > 0;
  answer.n_resumes = static_cast<int32_t>(row.integer(13));
  answer.end = {.status = static_cast<int>(row.integer(14)), .error = row.text(15)};
  answer.choices.resize(static_cast<size_t>(request.n_choices));
  read_tokens(row.integer(0), answer);
  return answer;
}

void JournalFile::State::read_tokens(Row row, JournaledAnswer& answer) {
  select_tokens.start().set(row);
  while (select_tokens.step()) {
    const int64_t choice = select_tokens.integer(0);
    const int64_t finish = select_tokens.integer(8);
    if (choice < 0 || choice >= answer.request.n_choices) damaged("a row names no choice");
    if (finish < 0 || finish > static_cast<int64_t>(FinishReason::kLength))
      damaged("a row names no end");
    ChoiceLog& log = answer.choices[static_cast<size_t>(choice)];
    if (select_tokens.integer(1) != static_cast<int64_t>(log.n_tokens()))
      damaged("a row of tokens is missing");
    ChoiceLog tail;
    tail.token_ids = checked(read_ids(select_tokens.blob(2)));
    tail.logprobs = checked(read_floats(select_tokens.blob(3)));
    tail.top_logprobs = checked(read_tops(select_tokens.blob(4)));
    tail.prompt_logprobs = checked(read_floats(select_tokens.blob(5)));
    tail.numerics_id = select_tokens.text(6);
    tail.n_cached_tokens = static_cast<int32_t>(select_tokens.integer(7));
    tail.finish = static_cast<FinishReason>(finish);
    tail.prompt_top_logprobs = checked(read_tops(select_tokens.blob(9)));
    append_tail(log, std::move(tail));
    const size_t n_logprobs = answer.request.with_logprobs ? log.n_tokens() : 0;
    if (log.logprobs.size() != n_logprobs || log.top_logprobs.size() != n_logprobs)
      damaged("a row lacks logprobs");
    const size_t n_prompt_tops = log.prompt_top_logprobs.size();
    if (n_prompt_tops != 0 && n_prompt_tops != log.prompt_logprobs.size())
      damaged("a row lacks the prompt's logprobs");
  }
  const auto most = static_cast<size_t>(std::max(answer.request.max_new_tokens, 0));
  for (const ChoiceLog& log : answer.choices) {
    const bool must_have_ended = log.n_tokens() > 0 && log.n_tokens() == most;
    if (log.n_tokens() > most || (must_have_ended && log.finish == FinishReason::kNone))
      damaged("a choice has too many tokens");
  }
}

std::optional<JournaledAnswer> JournalFile::find(const std::string& id) {
  SqliteStatement by_id(*state_->db, (std::string(kRequestColumns) + "WHERE id = ?").c_str());
  by_id.start().set_text(id);
  if (!by_id.step()) return std::nullopt;
  return state_->read(by_id);
}

std::vector<std::pair<JournalFile::Row, JournaledAnswer>> JournalFile::unfinished() {
  SqliteStatement running(*state_->db,
                          (std::string(kRequestColumns) + "WHERE ended = 0 ORDER BY row").c_str());
  std::vector<std::pair<Row, JournaledAnswer>> found;
  running.start();
  while (running.step()) found.emplace_back(running.integer(0), state_->read(running));
  return found;
}

int64_t JournalFile::n_ended() {
  return query_integer(*state_->db, "SELECT COUNT(*) FROM requests WHERE ended > 0");
}

int64_t JournalFile::used_bytes() {
  const int64_t n_pages = query_integer(*state_->db, "PRAGMA page_count") -
                          query_integer(*state_->db, "PRAGMA freelist_count");
  return n_pages * query_integer(*state_->db, "PRAGMA page_size");
}

}  // namespace trireme
