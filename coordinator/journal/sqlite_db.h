#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

// Private to coordinator/journal and coordinator/batch.

namespace trireme {

// What SQLite could not do. Stays inside these folders.
class SqliteError : public std::runtime_error {
 public:
  SqliteError(int result_code, const std::string& message)
      : std::runtime_error(message), code(result_code) {}
  const int code;
};

// One connection. Not thread-safe. Everything throws SqliteError.
class SqliteDb {
 public:
  explicit SqliteDb(const std::filesystem::path& path);
  ~SqliteDb();
  SqliteDb(const SqliteDb&) = delete;
  SqliteDb& operator=(const SqliteDb&) = delete;

  void execute(const char* sql);  // any number of statements, without rows
  int64_t last_row() const;
  void rollback() noexcept;  // nothing where no transaction is open
  sqlite3* handle() const { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

// A statement prepared once: set values, then step.
class SqliteStatement {
 public:
  SqliteStatement(SqliteDb& db, const char* sql);
  ~SqliteStatement();
  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;

  // Values in the order of the statement's question marks; kept until the next start().
  SqliteStatement& start();
  SqliteStatement& set(int64_t value);
  SqliteStatement& set_text(std::string_view value);
  SqliteStatement& set_blob(std::span<const std::byte> value);
  void run();   // to the end, without rows
  bool step();  // true: there is a row

  int64_t integer(int column) const;
  std::string text(int column) const;
  std::vector<std::byte> blob(int column) const;

 private:
  void check(int result) const;

  SqliteDb& db_;
  sqlite3_stmt* statement_ = nullptr;
  int n_set_ = 0;
};

}  // namespace trireme
