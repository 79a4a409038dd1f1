#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/packed_model.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::environment_error;
using ::testing::HasSubstr;

class PackedCache : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TRIREME_CACHE", cache_.c_str(), 1);
    testing::write_model(model_, testing::small_config("LlamaForCausalLM"));
  }
  void TearDown() override { ::unsetenv("TRIREME_CACHE"); }

  // The file, and whether it had to be made.
  std::pair<fs::path, bool> get(WeightFormat format = WeightFormat::kBF16) {
    bool made = false;
    const fs::path path =
        cached_packed_model(model_, format,
                            {.fallback = fallback_,
                             .on_progress = [&made](uint64_t, uint64_t) { made = true; },
                             .on_note = [this](const std::string& line) { notes_ += line; }});
    return {path, made};
  }
  size_t n_packed() const {
    size_t n = 0;
    for (const auto& entry : fs::recursive_directory_iterator(cache_)) {
      n += entry.path().extension() == ".trireme" ? 1 : 0;
    }
    return n;
  }
  testing::TempFolder folder_;
  fs::path fallback_;
  std::string notes_;
  fs::path cache_ = folder_.path() / "cache";
  fs::path model_ = folder_.path() / "model";
};

TEST_F(PackedCache, IsMadeOnceForEachFormat) {
  const auto [path, made] = get();
  EXPECT_TRUE(made);
  EXPECT_THAT(path.string(), HasSubstr(cache_.string()));
  PackedModel::open(path)->verify({});
  EXPECT_EQ(get(), std::pair(path, false));
  const auto [f32, f32_made] = get(WeightFormat::kF32);
  EXPECT_TRUE(f32_made);
  EXPECT_NE(f32, path);
  EXPECT_EQ(get(), std::pair(path, false));
}

TEST_F(PackedCache, IsFoundThroughAnotherNameOfTheFolder) {
  const auto [path, made] = get();
  fs::create_directory_symlink(model_, folder_.path() / "link");
  EXPECT_EQ(cached_packed_model(folder_.path() / "link/../link", WeightFormat::kBF16, {}), path);
}

TEST_F(PackedCache, AChangedSourceIsPackedAgainAndTheOldOneGoes) {
  const auto [path, made] = get();
  testing::write_model(model_, testing::small_config("LlamaForCausalLM"), "F32");
  const auto [other, made_again] = get();
  EXPECT_TRUE(made_again);
  EXPECT_NE(other, path);
  EXPECT_EQ(n_packed(), 1U);
  auto config = testing::small_config("LlamaForCausalLM");
  config["rope_theta"] = 77.0;
  testing::write_file(model_ / "config.json", config.dump());
  const fs::path third = get().first;
  EXPECT_EQ(PackedModel::open(third)->config().rope.theta, 77.0);

  // Of the same size, and a millisecond younger.
  const auto written = fs::last_write_time(model_ / "config.json");
  config["rope_theta"] = 78.0;
  testing::write_file(model_ / "config.json", config.dump());
  fs::last_write_time(model_ / "config.json", written + std::chrono::milliseconds(1));
  EXPECT_EQ(PackedModel::open(get().first)->config().rope.theta, 78.0);
}

TEST_F(PackedCache, ADamagedHeaderIsMadeAgain) {
  const auto [path, made] = get();
  fs::resize_file(path, 100);
  EXPECT_EQ(get(), std::pair(path, true));
  EXPECT_THAT(notes_, AllOf(HasSubstr(path.string()), HasSubstr("made again")));
  PackedModel::open(path)->verify({});
}

TEST_F(PackedCache, AFileOfAnotherVersionIsMadeAgain) {
  const auto [path, made] = get();
  std::string bytes = testing::read_file(path);
  bytes[8] = 1;
  testing::write_file(path, bytes);
  EXPECT_EQ(get(), std::pair(path, true));
  EXPECT_EQ(get(), std::pair(path, false));
}

TEST_F(PackedCache, WhatAKilledProcessLeftIsRemoved) {
  const auto [path, made] = get();
  const fs::path left = path.string() + ".tmp.abcdef";
  testing::write_file(left, "half");
  fs::remove(path);
  EXPECT_TRUE(get().second);
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(PackedCache, SeveralProcessesMakeItOnce) {
  constexpr int kProcesses = 4;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      int status = 3;
      try {
        status = get().second ? 1 : 0;
      } catch (...) {
        status = 2;
      }
      ::_exit(status);
    }
    children.push_back(pid);
  }
  int n_made = 0;
  for (const pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_LE(WEXITSTATUS(status), 1);
    n_made += WEXITSTATUS(status);
  }
  EXPECT_EQ(n_made, 1);
  EXPECT_EQ(n_packed(), 1U);
}

TEST_F(PackedCache, AFolderThatCannotBeMadeSaysWhatToSet) {
  testing::write_file(folder_.path() / "file", "");
  ::setenv("TRIREME_CACHE", (folder_.path() / "file").c_str(), 1);
  EXPECT_THAT(environment_error([this] { get(); }),
              AllOf(HasSubstr("cannot be written"), HasSubstr("set TRIREME_CACHE")));
}

TEST_F(PackedCache, AFolderThatCannotBeWrittenFallsBackAndSaysSo) {
  fallback_ = folder_.path() / "run";
  fs::create_directories(fallback_);
  ::setenv("TRIREME_CACHE", "/proc/no-such-folder", 1);
  const auto [path, made] = get();
  EXPECT_TRUE(made);
  EXPECT_EQ(path.parent_path(), fallback_);
  EXPECT_THAT(notes_, AllOf(HasSubstr("/proc/no-such-folder: cannot be written"),
                            HasSubstr(fallback_.string()), HasSubstr("set TRIREME_CACHE")));
  PackedModel::open(path)->verify({});
}

TEST_F(PackedCache, WithoutAHomeItFallsBackToo) {
  fallback_ = folder_.path();
  ::unsetenv("TRIREME_CACHE");
  const std::string home = ::getenv("HOME") == nullptr ? "" : ::getenv("HOME");
  const std::string xdg = ::getenv("XDG_CACHE_HOME") == nullptr ? "" : ::getenv("XDG_CACHE_HOME");
  ::unsetenv("HOME");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(get().first.parent_path(), fallback_);
  EXPECT_THAT(notes_, HasSubstr("HOME is not set"));
  if (!home.empty()) ::setenv("HOME", home.c_str(), 1);
  if (!xdg.empty()) ::setenv("XDG_CACHE_HOME", xdg.c_str(), 1);
}

TEST_F(PackedCache, AMissingModelSaysSo) {
  fs::remove_all(model_);
  EXPECT_THAT(environment_error([this] { get(); }), HasSubstr("No such file or directory"));
}

}  // namespace
}  // namespace trireme
