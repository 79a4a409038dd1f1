#include "coordinator/journal/private_db.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "kernels/result.h"

namespace trireme {
namespace {

// The file exists, is a plain file of this user and nobody else reads it. SQLite gives the files
// beside it the same mode.
void make_private_file(const std::filesystem::path& path, const PrivateDb& kind) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct stat status {};
  const bool opened = fd >= 0 && ::fstat(fd, &status) == 0;
  const bool done = opened && S_ISREG(status.st_mode) && ::fchmod(fd, 0600) == 0;
  const std::string cause =
      opened && !S_ISREG(status.st_mode) ? "it is not a plain file" : std::strerror(errno);
  if (fd >= 0) ::close(fd);
  if (done) return;
  throw EnvironmentError(
      fmt::format("cannot open the {} {}: {}; give one that this user can write with "
                  "{}",
                  kind.noun, path.string(), cause, kind.option));
}

std::string query_text(SqliteDb& db, const char* sql) {
  SqliteStatement statement(db, sql);
  std::string value = statement.start().step() ? statement.text(0) : std::string();
  statement.start();
  return value;
}

}  // namespace

int64_t query_integer(SqliteDb& db, const char* sql) {
  SqliteStatement statement(db, sql);
  const int64_t value = statement.start().step() ? statement.integer(0) : 0;
  statement.start();
  return value;
}

void explain_private_db(const std::filesystem::path& path, const PrivateDb& kind,
                        const SqliteError& error) {
  const std::string file = path.string();
  switch (error.code & 0xFF) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      throw EnvironmentError(fmt::format(
          "the {} {} is in use by another process: stop that one, or give another with {}",
          kind.noun, file, kind.option));
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      throw EnvironmentError(
          fmt::format("the {} {} is damaged or no {} ({}): move it away to begin a new one; {}",
                      kind.noun, file, kind.noun, error.what(), kind.lost));
    default:
      throw EnvironmentError(
          fmt::format("cannot open the {} {}: {}; see that its folder can be written and has room",
                      kind.noun, file, error.what()));
  }
}

std::unique_ptr<SqliteDb> open_private_db(const std::filesystem::path& path,
                                          const PrivateDb& kind) {
  make_private_file(path, kind);
  auto db = std::make_unique<SqliteDb>(path);
  db->execute(
      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
      "PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;");
  db->execute("BEGIN IMMEDIATE; COMMIT;");
  const bool fresh = query_integer(*db, "SELECT COUNT(*) FROM sqlite_master") == 0;
  const int64_t version = query_integer(*db, "PRAGMA user_version");
  if (fresh && version == 0) {
    db->execute("BEGIN IMMEDIATE");
    db->execute(kind.schema);
    db->execute(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}; COMMIT;",
                            kind.application_id, kind.version)
                    .c_str());
    return db;
  }
  if (query_integer(*db, "PRAGMA application_id") != kind.application_id) {
    throw EnvironmentError(fmt::format("{} is a database of another program: give another with {}",
                                       path.string(), kind.option));
  }
  if (version != kind.version) {
    throw EnvironmentError(
        fmt::format("the {} {} has version {}, and this build reads version {}: {}, or move it "
                    "away to begin a new "
                    "one",
                    kind.noun, path.string(), version, kind.version, kind.unfinished));
  }
  const std::string found = query_text(*db, "PRAGMA quick_check(1)");
  if (found != "ok") throw SqliteError(SQLITE_CORRUPT, found);
  return db;
}

}  // namespace trireme
