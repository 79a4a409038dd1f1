#include "coordinator/journal/sqlite_db.h"

#include <sqlite3.h>

namespace trireme {

SqliteDb::SqliteDb(const std::filesystem::path& path) {
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int result = sqlite3_open_v2(path.c_str(), &db_, flags, nullptr);
  if (result == SQLITE_OK) return;
  const std::string message = sqlite3_errmsg(db_);
  sqlite3_close(db_);
  throw SqliteError(result, message);
}

SqliteDb::~SqliteDb() { sqlite3_close(db_); }

void SqliteDb::execute(const char* sql) {
  const int result = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  if (result != SQLITE_OK) throw SqliteError(result, sqlite3_errmsg(db_));
}

int64_t SqliteDb::last_row() const { return sqlite3_last_insert_rowid(db_); }

void SqliteDb::rollback() noexcept {
  if (sqlite3_get_autocommit(db_) != 0) return;
  sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
}

SqliteStatement::SqliteStatement(SqliteDb& db, const char* sql) : db_(db) {
  check(sqlite3_prepare_v3(db.handle(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr));
}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(statement_); }

void SqliteStatement::check(int result) const {
  if (result != SQLITE_OK) throw SqliteError(result, sqlite3_errmsg(db_.handle()));
}

SqliteStatement& SqliteStatement::start() {
  sqlite3_reset(statement_);  // repeats the error of the last run, which was thrown then
  check(sqlite3_clear_bindings(statement_));
  n_set_ = 0;
  return *this;
}

SqliteStatement& SqliteStatement::set(int64_t value) {
  check(sqlite3_bind_int64(statement_, ++n_set_, value));
  return *this;
}

SqliteStatement& SqliteStatement::set_text(std::string_view value) {
  check(sqlite3_bind_text64(statement_, ++n_set_, value.data(), value.size(), SQLITE_TRANSIENT,
                            SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::set_blob(std::span<const std::byte> value) {
  const void* data = value.empty() ? "" : static_cast<const void*>(value.data());
  check(sqlite3_bind_blob64(statement_, ++n_set_, data, value.size(), SQLITE_TRANSIENT));
  return *this;
}

bool SqliteStatement::step() {
  const int result = sqlite3_step(statement_);
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) {
    sqlite3_reset(statement_);
    return false;
  }
  const std::string message = sqlite3_errmsg(db_.handle());
  sqlite3_reset(statement_);
  throw SqliteError(result, message);
}

void SqliteStatement::run() {
  while (step()) {
  }
}

int64_t SqliteStatement::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string SqliteStatement::text(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
  return data == nullptr ? std::string() : std::string(data, size);
}

std::vector<std::byte> SqliteStatement::blob(int column) const {
  const auto* data = static_cast<const std::byte*>(sqlite3_column_blob(statement_, column));
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
  return data == nullptr ? std::vector<std::byte>() : std::vector<std::byte>(data, data + size);
}

}  // namespace trireme
