#include "coordinator/journal/journal.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>
#include <utility>

#include "coordinator/journal/journal_file.h"
#include "coordinator/journal/sqlite_db.h"
#include "kernels/check.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSweepInterval = std::chrono::seconds(1);

// What a client can make long.
int64_t body_bytes_of(const JournaledRequest& request) {
  size_t size = request.body.size();
  for (const std::vector<int32_t>& prompt : request.prompts)
    size += prompt.size() * sizeof(int32_t);
  return static_cast<int64_t>(size);
}

// What one entry has that the file has not.
struct Write {
  struct Part {
    int32_t choice = 0;
    size_t position = 0;
    ChoiceLog tail;
  };
  Journal::EntryPtr entry;
  int64_t row = 0;  // 0: the request too
  std::vector<Part> parts;
  std::optional<JournaledEnd> end;
};

}  // namespace

// ---- entries ----

JournalEntry::JournalEntry(JournaledAnswer answer,
                           std::shared_ptr<std::atomic<int64_t>> unwritten_bytes)
    : request_(std::move(answer.request)),
      n_resumes_(answer.n_resumes),
      unwritten_bytes_(std::move(unwritten_bytes)) {
  for (ChoiceLog& log : answer.choices) choices_.emplace_back().log = std::move(log);
}

JournalEntry::~JournalEntry() { body_is_written(); }

void JournalEntry::body_is_written() {
  *unwritten_bytes_ -= std::exchange(body_bytes_, 0);
  request_.body = {};
  request_.prompts = {};
}

bool JournalEntry::Choice::unwritten() const {
  const bool finish = log.finish != FinishReason::kNone && !finish_written;
  return log.n_tokens() > n_written || finish;
}

// ---- the writer ----

struct Journal::State {
  explicit State(JournalOptions journal_options)
      : options(std::move(journal_options)), file(options.path) {
    if (!options.now_s) options.now_s = [] { return static_cast<int64_t>(std::time(nullptr)); };
  }

  void load_unfinished();
  void mark_dirty(const EntryPtr& entry, bool is_urgent);
  void run();
  bool wait_for_work(std::unique_lock<std::mutex>& lock);
  std::vector<Write> take_writes();
  std::string write(std::vector<Write>& writes);
  std::string sweep();
  void settle(const std::vector<Write>& writes, const std::string& error);
  void set_problem(std::unique_lock<std::mutex>& lock, const std::string& error);

  JournalOptions options;
  std::mutex file_mutex;
  JournalFile file;  // under file_mutex
  std::vector<EntryPtr> unfinished;
  const std::shared_ptr<std::atomic<int64_t>> unwritten_bytes =
      std::make_shared<std::atomic<int64_t>>(0);

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<EntryPtr> dirty;  // under mutex, as all that follows
  bool urgent = false;
  bool writing = false;
  std::condition_variable written;
  bool stopping = false;
  bool full = false;
  std::string problem;
  Clock::time_point next_commit;
  Clock::time_point next_sweep;
  std::thread thread;
};

void Journal::State::load_unfinished() {
  file.begin();
  for (auto& [row, answer] : file.unfinished()) {
    file.count_resume(row);
    answer.n_resumes += 1;
    auto entry = std::make_shared<JournalEntry>(std::move(answer), unwritten_bytes);
    entry->row_ = row;
    for (JournalEntry::Choice& choice : entry->choices_) {
      choice.begun = !choice.log.empty();
      choice.n_written = choice.log.n_tokens();
      choice.finish_written = choice.log.finish != FinishReason::kNone;
    }
    unfinished.push_back(std::move(entry));
  }
  file.commit();
}

void Journal::State::mark_dirty(const EntryPtr& entry, bool is_urgent) {
  if (entry->lost_) return;
  const bool wake = dirty.empty() || (is_urgent && !urgent);
  if (!std::exchange(entry->dirty_, true)) dirty.push_back(entry);
  urgent |= is_urgent;
  if (wake) changed.notify_one();
}

// False: the end, and nothing is left to write.
bool Journal::State::wait_for_work(std::unique_lock<std::mutex>& lock) {
  for (;;) {
    const bool failing = !problem.empty();
    const auto now = Clock::now();
    if (stopping) return !dirty.empty();
    if (!dirty.empty() && (now >= next_commit || (urgent && !failing))) return true;
    if (now >= next_sweep) return true;
    changed.wait_until(lock, dirty.empty() ? next_sweep : std::min(next_sweep, next_commit));
  }
}

std::vector<Write> Journal::State::take_writes() {
  std::vector<Write> writes;
  for (const EntryPtr& entry : std::exchange(dirty, {})) {
    entry->dirty_ = false;
    Write& write = writes.emplace_back();
    write.entry = entry;
    write.row = entry->row_;
    for (size_t i = 0; i < entry->choices_.size(); ++i) {
      const JournalEntry::Choice& choice = entry->choices_[i];
      if (!choice.unwritten()) continue;
      write.parts.push_back({.choice = static_cast<int32_t>(i),
                             .position = choice.n_written,
                             .tail = tail_of(choice.log, choice.n_written)});
    }
    if (!entry->end_written_) write.end = entry->end_;
  }
  urgent = false;
  return writes;
}

// One commit. Returns what went wrong, or "".
std::string Journal::State::write(std::vector<Write>& writes) {
  const std::lock_guard lock(file_mutex);
  try {
    file.begin();
    for (Write& write : writes) {
      // The request itself changes only here.
      if (write.row == 0) write.row = file.add_request(write.entry->request_);
      for (const Write::Part& part : write.parts)
        file.add_tokens(write.row, part.choice, part.position, part.tail);
      if (write.end) file.end_request(write.row, *write.end, options.now_s());
    }
    if (writes.empty()) file.probe(options.now_s());
    file.commit();
    return "";
  } catch (const SqliteError& error) {
    file.rollback();
    return error.what();
  }
}

// Removes what is past its time or too much.
std::string Journal::State::sweep() {
  const std::lock_guard lock(file_mutex);
  try {
    file.begin();
    file.remove_ended_until(options.now_s() - options.retention_s);
    file.remove_ended_beyond(options.max_ended);
    int64_t used = file.used_bytes();
    for (int64_t n = file.n_ended(); used > options.max_bytes && n > 0; n = file.n_ended()) {
      file.remove_ended_beyond(n - std::max<int64_t>(1, n / 8));
      used = file.used_bytes();
    }
    file.commit();
    const std::lock_guard state_lock(mutex);
    full = used > options.max_bytes;
    return "";
  } catch (const SqliteError& error) {
    file.rollback();
    return error.what();
  }
}

// Notes what the file has now; what it did not take stays in the entries for the next try.
void Journal::State::settle(const std::vector<Write>& writes, const std::string& error) {
  for (const Write& write : writes) {
    JournalEntry& entry = *write.entry;
    if (!error.empty()) {
      if (entry.row_ == 0) entry.lost_ = true;
      mark_dirty(write.entry, false);
      continue;
    }
    if (entry.row_ == 0) entry.body_is_written();
    entry.row_ = write.row;
    for (const Write::Part& part : write.parts) {
      JournalEntry::Choice& choice = entry.choices_[static_cast<size_t>(part.choice)];
      choice.begun = true;
      choice.n_written = part.position + part.tail.n_tokens();
      choice.finish_written = part.tail.finish != FinishReason::kNone;
    }
    entry.end_written_ |= write.end.has_value();
  }
}

void Journal::State::set_problem(std::unique_lock<std::mutex>& lock, const std::string& error) {
  if (error.empty() == problem.empty()) return;
  problem = error;
  lock.unlock();
  if (error.empty()) {
    spdlog::info("the journal {} takes what is written again", options.path.string());
  } else {
    spdlog::error(
        "the journal {} cannot be written: {}; running answers go on, new streams are refused "
        "until it can: make room on its disk",
        options.path.string(), error);
  }
  if (options.on_problem) options.on_problem(error);
  lock.lock();
}

void Journal::State::run() {
  std::unique_lock lock(mutex);
  while (wait_for_work(lock)) {
    const bool failing = !problem.empty();
    const bool last = stopping;
    std::vector<Write> writes = take_writes();
    writing = true;
    const bool sweeps = !failing && Clock::now() >= next_sweep;
    lock.unlock();
    std::string error;
    if (sweeps) error = sweep();
    // While the file fails, even nothing to write is a try.
    if (error.empty() && (failing || !writes.empty())) error = write(writes);
    lock.lock();
    if (sweeps || failing) next_sweep = Clock::now() + kSweepInterval;
    next_commit =
        Clock::now() + std::chrono::milliseconds(error.empty() ? options.commit_interval_ms
                                                               : options.retry_interval_ms);
    settle(writes, error);
    set_problem(lock, error);
    std::vector<std::function<void()>> callbacks;
    for (const Write& write : writes) callbacks.push_back(write.entry->on_written_);
    lock.unlock();
    for (const std::function<void()>& callback : callbacks)
      if (callback) callback();
    callbacks.clear();
    writes.clear();
    lock.lock();
    writing = false;
    written.notify_all();
    if (last) return;
  }
}

// ---- the journal ----

Journal::Journal(JournalOptions options) : state_(std::make_unique<State>(std::move(options))) {
  try {
    state_->load_unfinished();
  } catch (const SqliteError& error) {
    throw EnvironmentError(
        fmt::format("the journal {} cannot be written: {}; make room on its disk",
                    state_->options.path.string(), error.what()));
  }
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Journal::~Journal() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_one();
  state_->thread.join();
  try {  // an end in order: nothing in the file brought it about
    state_->file.forget_resumes();
  } catch (const SqliteError& error) {
    spdlog::warn("the journal {}: {}", state_->options.path.string(), error.what());
  }
}

std::vector<Journal::EntryPtr> Journal::take_unfinished() {
  return std::exchange(state_->unfinished, {});
}

Result<Journal::EntryPtr> Journal::create(JournaledRequest request) {
  TRIREME_CHECK(request.n_choices > 0);
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->problem.empty()) {
      return Error{"the server's journal cannot be written now, and streams are not served without",
                   "journal"};
    }
    if (state_->full)
      return Error{"the server's journal is full of running answers; try again later", "journal"};
  }
  const int64_t body_bytes = body_bytes_of(request);
  if (*state_->unwritten_bytes + body_bytes > state_->options.max_unwritten_bytes) {
    return Error{fmt::format("requests that wait for their first token already take {} bytes",
                             state_->unwritten_bytes->load()),
                 "journal"};
  }
  JournaledAnswer answer;
  answer.choices.resize(static_cast<size_t>(request.n_choices));
  answer.request = std::move(request);
  auto entry = std::make_shared<JournalEntry>(std::move(answer), state_->unwritten_bytes);
  *state_->unwritten_bytes += body_bytes;
  entry->body_bytes_ = body_bytes;
  return entry;
}

void Journal::on_written(const EntryPtr& entry, std::function<void()> callback) {
  const std::lock_guard lock(state_->mutex);
  entry->on_written_ = std::move(callback);
}

void Journal::append(const EntryPtr& entry, int choice, const GenerateEvent& event) {
  const std::lock_guard lock(state_->mutex);
  JournalEntry::Choice& to = entry->choices_.at(static_cast<size_t>(choice));
  append_event(to.log, event, entry->request_.with_logprobs);
  if (to.log.empty()) return;
  entry->appended_ = true;
  state_->mark_dirty(entry, !to.begun);
}

bool Journal::end(const EntryPtr& entry, JournaledEnd end) {
  const std::lock_guard lock(state_->mutex);
  TRIREME_CHECK(!entry->end_);
  if (entry->lost_ || (entry->row_ == 0 && !entry->appended_)) return false;
  entry->end_ = std::move(end);
  state_->mark_dirty(entry, false);
  return true;
}

bool Journal::may_tell(const EntryPtr& entry, int choice) const {
  const std::lock_guard lock(state_->mutex);
  const bool failing = !state_->problem.empty();
  return entry->choices_.at(static_cast<size_t>(choice)).begun || (entry->row_ != 0 && failing);
}

bool Journal::is_lost(const EntryPtr& entry) const {
  const std::lock_guard lock(state_->mutex);
  return entry->lost_;
}

bool Journal::holds_end(const EntryPtr& entry) const {
  const std::lock_guard lock(state_->mutex);
  return entry->end_written_;
}

bool Journal::flush(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(state_->mutex);
  const bool done = state_->written.wait_until(
      lock, deadline, [this] { return state_->dirty.empty() && !state_->writing; });
  if (!done || !state_->problem.empty()) return false;
  lock.unlock();
  const std::lock_guard file_lock(state_->file_mutex);
  try {
    state_->file.forget_resumes();
    return true;
  } catch (const SqliteError& error) {
    spdlog::warn("the journal {}: {}", state_->options.path.string(), error.what());
    return false;
  }
}

std::optional<JournaledAnswer> Journal::find(const std::string& id) const {
  const std::lock_guard lock(state_->file_mutex);
  try {
    return state_->file.find(id);
  } catch (const SqliteError& error) {
    spdlog::error("the journal {} cannot be read: {}", state_->options.path.string(), error.what());
    return std::nullopt;
  }
}

}  // namespace trireme
