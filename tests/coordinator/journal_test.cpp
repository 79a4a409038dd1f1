#include "coordinator/journal/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/temp_folder.h"

namespace trireme {
namespace {

using testing::HasSubstr;

constexpr auto kPatience = std::chrono::seconds(20);

JournaledRequest request_of(const std::string& id, int32_t n_choices = 1) {
  return {.id = id,
          .endpoint = "/v1/completions",
          .key_name = "alice",
          .weights = "w",
          .body = R"({"prompt":"x"})",
          .prompts = {{1, 2}, {}, {3}},
          .created = 77,
          .seed = 0xFFFFFFFFFFFFFFF0U,
          .max_new_tokens = 1000,
          .n_choices = n_choices,
          .with_logprobs = true};
}

GenerateEvent token(int32_t id, FinishReason finish = FinishReason::kNone) {
  GenerateEvent event;
  event.token_ids = {id};
  event.logprobs = {-0.5F * static_cast<float>(id)};
  event.top_logprobs = {{{.token_id = id, .logprob = -1.0F}, {.token_id = 9, .logprob = -2.0F}}};
  event.numerics_id = "numerics";
  event.n_cached_tokens = 48;
  event.finish = finish;
  return event;
}

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.path = folder_ / "journal";
    options_.now_s = [this] { return now_s_.load(); };
    options_.commit_interval_ms = 1;
    options_.retry_interval_ms = 1;
  }

  std::unique_ptr<Journal> open() { return std::make_unique<Journal>(options_); }

  std::string refusal() {
    try {
      open();
    } catch (const EnvironmentError& error) {
      return error.what();
    }
    return "";
  }

  // An entry whose commits can be waited for.
  Journal::EntryPtr create(Journal& journal, const JournaledRequest& request) {
    Journal::EntryPtr entry = *journal.create(request);
    watch(journal, entry);
    return entry;
  }
  void watch(Journal& journal, const Journal::EntryPtr& entry) {
    journal.on_written(entry, [this] {
      const std::lock_guard lock(mutex_);
      ++n_written_;
      changed_.notify_all();
    });
  }
  template <typename Condition>
  void wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      changed_.wait_for(lock, std::chrono::milliseconds(5));
    }
  }

  // An ended answer.
  void keep(Journal& journal, const JournaledRequest& request) {
    const Journal::EntryPtr entry = create(journal, request);
    journal.append(entry, 0, token(1, FinishReason::kStop));
    EXPECT_TRUE(journal.end(entry, {}));
    wait([&] { return journal.holds_end(entry); });
  }

  // The files as they are now: what a kill of this process would leave.
  std::filesystem::path copy_as_killed() {
    const std::filesystem::path copy = folder_ / std::to_string(++n_copies_);
    std::filesystem::create_directory(copy);
    std::filesystem::copy(options_.path, copy / "journal");
    std::filesystem::copy(options_.path.string() + "-wal", copy / "journal-wal");
    return copy / "journal";
  }

  void execute(const std::string& sql) const {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(options_.path.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
  }

  const TempFolder folder_;
  JournalOptions options_;
  std::atomic<int64_t> now_s_{1000};
  std::mutex mutex_;
  std::condition_variable changed_;
  int n_written_ = 0;
  int n_copies_ = 0;
};

TEST_F(JournalTest, KeepsWhatWasNotEnded) {
  {
    const auto journal = open();
    const Journal::EntryPtr entry = create(*journal, request_of("a", 2));
    GenerateEvent first = token(5);
    first.prompt_logprobs = {-0.25F, -0.125F};
    journal->append(entry, 1, first);
    wait([&] { return journal->may_tell(entry, 1); });
    EXPECT_FALSE(journal->may_tell(entry, 0));
    journal->append(entry, 1, token(6));
    journal->append(entry, 0, token(7, FinishReason::kLength));
    keep(*journal, request_of("ended"));
  }
  const auto journal = open();
  const std::vector<Journal::EntryPtr> unfinished = journal->take_unfinished();
  ASSERT_EQ(unfinished.size(), 1U);
  const JournalEntry& entry = *unfinished[0];
  EXPECT_EQ(entry.request().id, "a");
  EXPECT_EQ(entry.request().endpoint, "/v1/completions");
  EXPECT_EQ(entry.request().key_name, "alice");
  EXPECT_EQ(entry.request().weights, "w");
  EXPECT_EQ(entry.request().body, R"({"prompt":"x"})");
  EXPECT_EQ(entry.request().prompts, (std::vector<std::vector<int32_t>>{{1, 2}, {}, {3}}));
  EXPECT_EQ(entry.request().created, 77);
  EXPECT_EQ(entry.request().seed, 0xFFFFFFFFFFFFFFF0U);
  EXPECT_EQ(entry.request().max_new_tokens, 1000);
  EXPECT_TRUE(entry.request().with_logprobs);
  EXPECT_EQ(entry.n_resumes(), 1);
  const ChoiceLog& log = entry.log(1);
  EXPECT_EQ(log.token_ids, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(log.logprobs, (std::vector<float>{-2.5F, -3.0F}));
  EXPECT_EQ(log.top_logprobs.at(1).at(0).token_id, 6);
  EXPECT_EQ(log.prompt_logprobs, (std::vector<float>{-0.25F, -0.125F}));
  EXPECT_EQ(log.numerics_id, "numerics");
  EXPECT_EQ(log.n_cached_tokens, 48);
  EXPECT_EQ(log.finish, FinishReason::kNone);
  EXPECT_EQ(entry.log(0).finish, FinishReason::kLength);
  EXPECT_TRUE(journal->may_tell(unfinished[0], 0));
}

TEST_F(JournalTest, GoesOnInTheSameRows) {
  {
    const auto journal = open();
    const Journal::EntryPtr entry = create(*journal, request_of("a"));
    journal->append(entry, 0, token(1));
  }
  {
    const auto journal = open();
    const Journal::EntryPtr entry = journal->take_unfinished().at(0);
    journal->append(entry, 0, token(2, FinishReason::kStop));
  }
  {
    const auto journal = open();
    const Journal::EntryPtr entry = journal->take_unfinished().at(0);
    EXPECT_EQ(entry->log(0).token_ids, (std::vector<int32_t>{1, 2}));
    EXPECT_TRUE(journal->end(entry, {.status = 500, .error = "{\"e\":1}"}));
  }
  const auto journal = open();
  EXPECT_TRUE(journal->take_unfinished().empty());
  const auto answer = journal->find("a");
  ASSERT_TRUE(answer && answer->ended);
  EXPECT_EQ(answer->end.status, 500);
  EXPECT_EQ(answer->end.error, "{\"e\":1}");
  EXPECT_FALSE(journal->find("b"));
}

TEST_F(JournalTest, CountsStartsThatWereCutShort) {
  {
    const auto journal = open();
    const Journal::EntryPtr entry = create(*journal, request_of("a"));
    journal->append(entry, 0, token(1));
  }
  const auto n_resumes = [](Journal& j) { return j.take_unfinished().at(0)->n_resumes(); };
  for (int start = 1; start <= 3; ++start) {
    const auto journal = open();
    EXPECT_EQ(n_resumes(*journal), start);
    options_.path = copy_as_killed();
  }
  EXPECT_EQ(n_resumes(*open()), 4);
  EXPECT_EQ(n_resumes(*open()), 1) << "the one before ended in order";
  {
    const auto journal = open();
    const Journal::EntryPtr entry = journal->take_unfinished().at(0);
    watch(*journal, entry);
    n_written_ = 0;
    journal->append(entry, 0, token(2));
    wait([&] { return n_written_ > 0; });
    options_.path = copy_as_killed();
  }
  EXPECT_EQ(n_resumes(*open()), 1) << "it got further";
}

TEST_F(JournalTest, NothingIsWrittenBeforeTheFirstToken) {
  const auto journal = open();
  const Journal::EntryPtr entry = create(*journal, request_of("a"));
  EXPECT_FALSE(journal->end(entry, {.status = 410, .error = "{}"}));
  keep(*journal, request_of("b"));
  EXPECT_FALSE(journal->find("a"));
}

// What a crash leaves: a log whose last commit is cut. The commits before it count.
TEST_F(JournalTest, ATornTailIsIgnored) {
  std::filesystem::path copy;
  {
    const auto journal = open();
    const Journal::EntryPtr entry = create(*journal, request_of("a"));
    journal->append(entry, 0, token(1));
    wait([&] { return journal->may_tell(entry, 0); });
    int n_before = 0;
    for (int32_t id = 2; id < 6; ++id) {
      n_before = n_written_;
      journal->append(entry, 0, token(id));
      wait([&] { return n_written_ > n_before; });
    }
    copy = copy_as_killed();
  }
  const std::filesystem::path log = copy.string() + "-wal";
  std::filesystem::resize_file(log, std::filesystem::file_size(log) - 100);
  options_.path = copy;
  const auto journal = open();
  EXPECT_EQ(journal->take_unfinished().at(0)->log(0).token_ids, (std::vector<int32_t>{1, 2, 3, 4}));
}

TEST_F(JournalTest, OnlyItsOwnerReadsItAndOneProcessWritesIt) {
  std::ofstream(options_.path).close();
  ::chmod(options_.path.c_str(), 0644);
  const auto journal = open();
  keep(*journal, request_of("a"));
  for (const char* suffix : {"", "-wal"}) {
    struct stat status {};
    ASSERT_EQ(::stat((options_.path.string() + suffix).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U) << suffix;
  }
}

TEST_F(JournalTest, SaysWhatIsWrongWithAFile) {
  { open(); }
  execute("PRAGMA user_version = 1");
  EXPECT_THAT(refusal(), HasSubstr("has version 1, and this build reads version 3"));
  execute("PRAGMA application_id = 1");
  EXPECT_THAT(refusal(), HasSubstr("is a database of another program"));
  std::filesystem::resize_file(options_.path, 5000);
  EXPECT_THAT(refusal(), HasSubstr("is damaged or no journal"));
  std::ofstream(options_.path) << std::string(1000, 'x');
  EXPECT_THAT(refusal(), HasSubstr("is damaged or no journal"));
  options_.path = folder_.path();
  EXPECT_THAT(refusal(), HasSubstr("cannot open the journal"));
}

TEST_F(JournalTest, SaysWhichRowsAreMalformed) {
  {
    const auto journal = open();
    const Journal::EntryPtr entry = create(*journal, request_of("a"));
    journal->append(entry, 0, token(1));
  }
  for (const char* change :
       {"UPDATE tokens SET ids = x'0000'", "UPDATE tokens SET ids = x'0100000002000000'",
        "UPDATE tokens SET ids = x'01000000', choice = 3",
        "UPDATE tokens SET choice = 0, finish = 7", "UPDATE tokens SET finish = 0, position = 4",
        "UPDATE tokens SET position = 0, top_logprobs = x'05'",
        "UPDATE requests SET prompts = x'0200000001000000'",
        "UPDATE requests SET n_choices = 1000000"}) {
    execute(change);
    EXPECT_THAT(refusal(), HasSubstr("is damaged or no journal")) << change;
  }
}

TEST_F(JournalTest, AnswersGoWhenTheirTimeIsOver) {
  options_.retention_s = 50;
  {
    const auto journal = open();
    keep(*journal, request_of("old"));
    now_s_ = 1040;
    keep(*journal, request_of("new"));
    const Journal::EntryPtr running = create(*journal, request_of("running"));
    journal->append(running, 0, token(1));
  }
  now_s_ = 1060;
  const auto journal = open();
  wait([&] { return !journal->find("old"); });
  EXPECT_TRUE(journal->find("new"));
  EXPECT_EQ(journal->take_unfinished().size(), 1U);
}

TEST_F(JournalTest, TheOldestAnswersGoWhenThereAreTooMany) {
  {
    const auto journal = open();
    for (int i = 0; i < 6; ++i) keep(*journal, request_of(std::to_string(i)));
  }
  options_.max_ended = 2;
  const auto journal = open();
  wait([&] { return !journal->find("3"); });
  EXPECT_TRUE(journal->find("4"));
  EXPECT_TRUE(journal->find("5"));
}

TEST_F(JournalTest, TheOldestAnswersGoWhenTheyTakeTooMuch) {
  JournaledRequest large = request_of("");
  large.body.assign(100000, 'x');
  {
    const auto journal = open();
    for (int i = 0; i < 20; ++i) {
      large.id = std::to_string(i);
      keep(*journal, large);
    }
  }
  options_.max_bytes = 1 << 20;
  const auto journal = open();
  wait([&] { return !journal->find("9"); });
  EXPECT_TRUE(journal->find("19"));
  EXPECT_TRUE(journal->create(request_of("a")));
}

TEST_F(JournalTest, RefusesMoreThanItHasRoomFor) {
  options_.max_unwritten_bytes = 1000;
  const auto journal = open();
  JournaledRequest large = request_of("a");
  large.body.assign(900, 'x');
  {
    const Journal::EntryPtr entry = *journal->create(large);
    EXPECT_EQ(journal->create(large).error().param, "journal");
  }
  const Journal::EntryPtr entry = create(*journal, large);  // the first is gone
  journal->append(entry, 0, token(1));
  wait([&] { return journal->may_tell(entry, 0); });
  EXPECT_TRUE(journal->create(large));  // the second is in the file
}

// A limit on the size of files stands for a disk without room.
class SmallFiles {
 public:
  SmallFiles() {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small{.rlim_cur = 4096, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallFiles() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(JournalTest, AFullDiskIsToldAndMended) {
  std::vector<bool> problems;
  options_.on_problem = [&](const std::string& problem) {
    const std::lock_guard lock(mutex_);
    problems.push_back(!problem.empty());
    changed_.notify_all();
  };
  auto journal = open();
  const Journal::EntryPtr running = create(*journal, request_of("running", 2));
  journal->append(running, 0, token(1));
  wait([&] { return journal->may_tell(running, 0); });
  Journal::EntryPtr late = *journal->create(request_of("late"));
  {
    const SmallFiles full;
    journal->append(running, 0, token(2));
    wait([&] { return problems.size() == 1; });
    EXPECT_EQ(journal->create(request_of("refused")).error().param, "journal");
    EXPECT_TRUE(journal->may_tell(running, 1)) << "what runs goes on";
    watch(*journal, late);
    journal->append(late, 0, token(1));
    wait([&] { return journal->is_lost(late); });
    EXPECT_FALSE(journal->end(late, {}));
    journal->append(running, 1, token(3));
  }
  wait([&] { return problems.size() == 2; });
  EXPECT_EQ(problems, (std::vector<bool>{true, false}));
  EXPECT_TRUE(journal->create(request_of("taken")));
  journal.reset();
  journal = open();
  const std::vector<Journal::EntryPtr> unfinished = journal->take_unfinished();
  ASSERT_EQ(unfinished.size(), 1U);
  EXPECT_EQ(unfinished[0]->log(0).token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(unfinished[0]->log(1).token_ids, (std::vector<int32_t>{3}));
}

}  // namespace
}  // namespace trireme
