#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "coordinator/journal/sqlite_db.h"

namespace trireme {

// A database file of this program: what it is to people, and what is in it.
struct PrivateDb {
  const char* noun;        // "journal"
  const char* option;      // that names it
  const char* lost;        // what goes with it when it is moved away
  const char* unfinished;  // the mend where another build wrote it
  int64_t application_id;
  int64_t version;
  const char* schema;  // of a new one
};

// Opens and checks it, or makes it, for this user alone. The lock is this connection's until it
// closes, which a kill does too. Throws EnvironmentError, and SqliteError for explain_private_db().
std::unique_ptr<SqliteDb> open_private_db(const std::filesystem::path& path, const PrivateDb& kind);

// What an error of SQLite at start is to people. Throws EnvironmentError.
[[noreturn]] void explain_private_db(const std::filesystem::path& path, const PrivateDb& kind,
                                     const SqliteError& error);

// The first column of the first row; 0 without rows.
int64_t query_integer(SqliteDb& db, const char* sql);

}  // namespace trireme
