#include "coordinator/batch/batch_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>

#include "coordinator/http/reply_format.h"
#include "coordinator/journal/private_db.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr const char* kPart = ".part";  // of the name of a file that is being written

constexpr PrivateDb kStoreDb = {
    .noun = "batch store",
    .option = "--batches",
    .lost = "the files and batches in it are lost",
    .unfinished = "use that build",
    .application_id = 0x54726942,  // "TriB"
    .version = 1,
    .schema =
        "CREATE TABLE files(row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key_name TEXT, "
        "filename TEXT, purpose TEXT, n_bytes INTEGER, created INTEGER, sha256 TEXT);"
        "CREATE TABLE batches(row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key_name TEXT, "
        "endpoint TEXT, input_file_id TEXT, metadata TEXT, status INTEGER, output_file_id TEXT, "
        "error_file_id TEXT, error TEXT, created INTEGER, in_progress_at INTEGER, finalizing_at "
        "INTEGER, ended_at INTEGER, cancelling_at INTEGER, n_total INTEGER, n_completed INTEGER, "
        "n_failed INTEGER);"
        "CREATE INDEX open_batches ON batches(row) WHERE ended_at = 0;",
};

constexpr const char* kFileColumns =
    "SELECT id, key_name, filename, purpose, n_bytes, created, sha256 FROM files ";
constexpr const char* kBatchColumns =
    "SELECT id, key_name, endpoint, input_file_id, metadata, status, output_file_id, "
    "error_file_id, error, created, in_progress_at, finalizing_at, ended_at, cancelling_at, "
    "n_total, n_completed, n_failed FROM batches ";

StoredFile read_file_row(const SqliteStatement& row) {
  return {.id = row.text(0),
          .key_name = row.text(1),
          .filename = row.text(2),
          .purpose = row.text(3),
          .n_bytes = row.integer(4),
          .created = row.integer(5),
          .sha256 = row.text(6)};
}

StoredBatch read_batch_row(const SqliteStatement& row) {
  return {.id = row.text(0),
          .key_name = row.text(1),
          .endpoint = row.text(2),
          .input_file_id = row.text(3),
          .metadata = row.text(4),
          .status = static_cast<BatchStatus>(row.integer(5)),
          .output_file_id = row.text(6),
          .error_file_id = row.text(7),
          .error = row.text(8),
          .created = row.integer(9),
          .in_progress_at = row.integer(10),
          .finalizing_at = row.integer(11),
          .ended_at = row.integer(12),
          .cancelling_at = row.integer(13),
          .n_total = row.integer(14),
          .n_completed = row.integer(15),
          .n_failed = row.integer(16)};
}

// Rows of a page, in the order that they were added in, or the other way round.
template <typename Row>
std::vector<Row> read_page(SqliteDb& db, const char* table, const char* columns,
                           const char* purpose, Row (*read)(const SqliteStatement&),
                           const StorePage& page) {
  const char* beyond = page.newest_first ? "<" : ">";
  SqliteStatement rows(
      db, fmt::format("{}WHERE (?1 OR key_name = ?2) AND (?3 = '' OR row {} (SELECT row FROM {} "
                      "WHERE id = ?3)) AND (?4 = '' OR {} = ?4) ORDER BY row {} LIMIT ?5",
                      columns, beyond, table, purpose, page.newest_first ? "DESC" : "ASC")
              .c_str());
  rows.start()
      .set(page.everybody ? 1 : 0)
      .set_text(page.key_name)
      .set_text(page.after)
      .set_text(page.purpose)
      .set(page.limit);
  std::vector<Row> found;
  while (rows.step()) found.push_back(read(rows));
  return found;
}

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);
  if (!error) return;
  throw EnvironmentError(
      fmt::format("cannot make the folder {}: {}; give one that this user can write with --batches",
                  folder.string(), error.message()));
}

}  // namespace

const char* batch_status_name(BatchStatus status) {
  constexpr std::array kNames = {"validating", "failed",  "in_progress", "finalizing",
                                 "completed",  "expired", "cancelling",  "cancelled"};
  return kNames.at(static_cast<size_t>(status));
}

struct BatchStore::State {
  explicit State(BatchStoreOptions store_options) : options(std::move(store_options)) {
    make_folder(options.folder / "files");
    make_folder(options.folder / "runs");
    const std::filesystem::path path = options.folder / "batches.sqlite";
    try {
      db = open_private_db(path, kStoreDb);
      remove_strays();
    } catch (const SqliteError& error) {
      explain_private_db(path, kStoreDb, error);
    }
  }

  // A kill between the file's and the database's change leaves a file without a row.
  void remove_strays() const {
    remove_unless("files", [this](const std::string& id) { return find_file(id).has_value(); });
    remove_unless("runs", [this](const std::string& id) {
      const std::optional<StoredBatch> batch = find_batch(id);
      return batch && !batch->has_ended();
    });
  }

  void remove_unless(const char* folder,
                     const std::function<bool(const std::string& name)>& known) const {
    for (const auto& entry : std::filesystem::directory_iterator(options.folder / folder)) {
      if (!known(entry.path().filename().string())) std::filesystem::remove(entry.path());
    }
  }

  std::optional<StoredFile> find_file(const std::string& id) const {
    SqliteStatement row(*db, (std::string(kFileColumns) + "WHERE id = ?").c_str());
    if (!row.start().set_text(id).step()) return std::nullopt;
    return read_file_row(row);
  }

  std::optional<StoredBatch> find_batch(const std::string& id) const {
    SqliteStatement row(*db, (std::string(kBatchColumns) + "WHERE id = ?").c_str());
    if (!row.start().set_text(id).step()) return std::nullopt;
    return read_batch_row(row);
  }

  void write_batch(const StoredBatch& batch, const char* sql) const {
    SqliteStatement(*db, sql)
        .start()
        .set_text(batch.key_name)
        .set_text(batch.endpoint)
        .set_text(batch.input_file_id)
        .set_text(batch.metadata)
        .set(static_cast<int64_t>(batch.status))
        .set_text(batch.output_file_id)
        .set_text(batch.error_file_id)
        .set_text(batch.error)
        .set(batch.created)
        .set(batch.in_progress_at)
        .set(batch.finalizing_at)
        .set(batch.ended_at)
        .set(batch.cancelling_at)
        .set(batch.n_total)
        .set(batch.n_completed)
        .set(batch.n_failed)
        .set_text(batch.id)
        .run();
  }

  void remove_file(const std::string& id) const {
    SqliteStatement(*db, "DELETE FROM files WHERE id = ?").start().set_text(id).run();
    std::error_code ignored;
    std::filesystem::remove(options.folder / "files" / id, ignored);
  }

  const BatchStoreOptions options;
  mutable std::mutex mutex;
  std::unique_ptr<SqliteDb> db;  // under mutex
};

BatchStore::BatchStore(BatchStoreOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
BatchStore::~BatchStore() = default;

// ---- files ----

BatchStore::NewFile::NewFile(BatchStore& store, std::string id)
    : store_(store),
      id_(std::move(id)),
      path_(store.path_of_file(id_ + kPart)),
      fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {
  if (fd_ < 0) {
    throw std::runtime_error(
        fmt::format("cannot make {}: {}", path_.string(), std::strerror(errno)));
  }
}

BatchStore::NewFile::~NewFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(path_.c_str());
}

void BatchStore::NewFile::write(std::string_view bytes) {
  hash_.add(bytes);
  n_bytes_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      throw std::runtime_error(
          fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)));
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

StoredFile BatchStore::NewFile::keep(StoredFile file) {
  TRIREME_CHECK(fd_ >= 0);
  file.id = id_;
  file.n_bytes = n_bytes_;
  file.sha256 = hash_.hex();
  if (::fdatasync(fd_) != 0 || ::rename(path_.c_str(), store_.path_of_file(id_).c_str()) != 0) {
    throw std::runtime_error(
        fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)));
  }
  const std::lock_guard lock(store_.state_->mutex);
  SqliteStatement(
      *store_.state_->db,
      "INSERT OR REPLACE INTO files(id, key_name, filename, purpose, n_bytes, created, sha256) "
      "VALUES(?, ?, ?, ?, ?, ?, ?)")
      .start()
      .set_text(file.id)
      .set_text(file.key_name)
      .set_text(file.filename)
      .set_text(file.purpose)
      .set(file.n_bytes)
      .set(file.created)
      .set_text(file.sha256)
      .run();
  ::close(std::exchange(fd_, -1));
  return file;
}

std::optional<Error> BatchStore::full() const {
  const std::lock_guard lock(state_->mutex);
  if (query_integer(*state_->db, "SELECT COUNT(*) FROM files") >= kMaxStoredFiles) {
    return Error{
        fmt::format("there are {} files, which is the limit: delete some", kMaxStoredFiles),
        "file"};
  }
  const int64_t n_bytes = query_integer(*state_->db, "SELECT SUM(n_bytes) FROM files");
  if (n_bytes < state_->options.max_bytes) return std::nullopt;
  return Error{fmt::format("the files have {} bytes, and the limit is {}: delete some", n_bytes,
                           state_->options.max_bytes),
               "file"};
}

std::unique_ptr<BatchStore::NewFile> BatchStore::new_file(const std::string& id) {
  return std::make_unique<NewFile>(*this, id);
}

std::optional<StoredFile> BatchStore::find_file(const std::string& id) const {
  const std::lock_guard lock(state_->mutex);
  return state_->find_file(id);
}

std::vector<StoredFile> BatchStore::list_files(const StorePage& page) const {
  const std::lock_guard lock(state_->mutex);
  return read_page(*state_->db, "files", kFileColumns, "purpose", read_file_row, page);
}

bool BatchStore::remove_file(const std::string& id) {
  const std::lock_guard lock(state_->mutex);
  SqliteStatement readers(*state_->db,
                          "SELECT 1 FROM batches WHERE ended_at = 0 AND input_file_id = ?");
  if (readers.start().set_text(id).step()) return false;
  state_->remove_file(id);
  return true;
}

std::filesystem::path BatchStore::path_of_file(const std::string& id) const {
  return state_->options.folder / "files" / id;
}

// ---- batches ----

Result<StoredBatch> BatchStore::add_batch(StoredBatch batch) {
  const std::lock_guard lock(state_->mutex);
  if (query_integer(*state_->db, "SELECT COUNT(*) FROM batches WHERE ended_at = 0") >=
      kMaxOpenBatches) {
    return Error{fmt::format("{} batches have not ended yet, which is the limit; try again later",
                             kMaxOpenBatches),
                 "queue"};
  }
  batch.id = draw_answer_id("batch_");
  state_->write_batch(
      batch,
      "INSERT INTO batches(key_name, endpoint, input_file_id, metadata, status, output_file_id, "
      "error_file_id, error, created, in_progress_at, finalizing_at, ended_at, cancelling_at, "
      "n_total, n_completed, n_failed, id) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  return batch;
}

std::optional<StoredBatch> BatchStore::find_batch(const std::string& id) const {
  const std::lock_guard lock(state_->mutex);
  return state_->find_batch(id);
}

std::vector<StoredBatch> BatchStore::list_batches(const StorePage& page) const {
  const std::lock_guard lock(state_->mutex);
  return read_page(*state_->db, "batches", kBatchColumns, "''", read_batch_row, page);
}

std::optional<StoredBatch> BatchStore::next_batch() const {
  const std::lock_guard lock(state_->mutex);
  SqliteStatement row(
      *state_->db,
      (std::string(kBatchColumns) + "WHERE ended_at = 0 ORDER BY row LIMIT 1").c_str());
  if (!row.start().step()) return std::nullopt;
  return read_batch_row(row);
}

std::optional<StoredBatch> BatchStore::update_batch(
    const std::string& id, const std::function<void(StoredBatch&)>& change) {
  const std::lock_guard lock(state_->mutex);
  std::optional<StoredBatch> batch = state_->find_batch(id);
  if (!batch || batch->has_ended()) return batch;
  change(*batch);
  state_->write_batch(
      *batch,
      "UPDATE batches SET key_name = ?, endpoint = ?, input_file_id = ?, metadata = ?, status = ?, "
      "output_file_id = ?, error_file_id = ?, error = ?, created = ?, in_progress_at = ?, "
      "finalizing_at = ?, ended_at = ?, cancelling_at = ?, n_total = ?, n_completed = ?, n_failed "
      "= ? WHERE id = ?");
  return batch;
}

std::filesystem::path BatchStore::path_of_run(const std::string& batch_id) const {
  return state_->options.folder / "runs" / batch_id;
}

void BatchStore::sweep() {
  const int64_t oldest = std::time(nullptr) - kFileRetention_s;
  const std::lock_guard lock(state_->mutex);
  SqliteStatement(*state_->db, "DELETE FROM batches WHERE ended_at > 0 AND created < ?")
      .start()
      .set(oldest)
      .run();
  std::vector<std::string> old;
  SqliteStatement files(*state_->db,
                        "SELECT id FROM files WHERE created < ? AND id NOT IN (SELECT "
                        "input_file_id FROM batches WHERE ended_at = 0)");
  for (files.start().set(oldest); files.step();) old.push_back(files.text(0));
  for (const std::string& id : old) state_->remove_file(id);
}

}  // namespace trireme
