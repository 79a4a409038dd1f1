#include "worker/weights_loader.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/self_communicator.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kDeadline{60};

// An engine of one rank on a small model, and a second file with other weights.
class WeightsLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path model = TRIREME_SOURCE_DIR "/tests/golden/llama";
    old_ = pack(model, "old", WeightFormat::kBF16);
    fs::copy(model, folder_ / "other");
    change_weights(folder_ / "other" / "model.safetensors");
    new_ = pack(folder_ / "other", "new", WeightFormat::kBF16);
    new_.generation = 2;
    engine_ = make_engine(old_);
    loader_ = make_loader(*engine_);
  }
  void TearDown() override {
    loader_.reset();
    engine_.reset();
  }

  WeightsFile pack(const fs::path& model, const std::string& name, WeightFormat format) const {
    const fs::path path = folder_ / (name + ".trireme");
    pack_model(model, path, format, {});
    return {.generation = 1,
            .path = path.string(),
            .fingerprint = PackedModel::open(path)->fingerprint()};
  }
  static void change_weights(const fs::path& safetensors) {
    std::string bytes;
    {
      std::ifstream file(safetensors, std::ios::binary);
      bytes.assign(std::istreambuf_iterator<char>(file), {});
    }
    const size_t begin = 8 + static_cast<unsigned char>(bytes[0]) +
                         256 * static_cast<size_t>(static_cast<unsigned char>(bytes[1]));
    for (size_t i = begin; i < bytes.size(); i += 8) bytes[i] = static_cast<char>(bytes[i] ^ 0x38);
    fs::permissions(safetensors, fs::perms::owner_write, fs::perm_options::add);
    std::ofstream(safetensors, std::ios::binary) << bytes;
  }
  static std::unique_ptr<Engine> make_engine(const WeightsFile& file) {
    const auto packed = open_weights(file);
    const ShardPlan shard = *make_shard_plan(packed->config(), {1, 1}, 0);
    RankComms comms{std::make_unique<SelfCommunicator>(), std::make_unique<SelfCommunicator>()};
    return std::make_unique<Engine>(EngineParts{.config = packed->config(),
                                                .shard = shard,
                                                .generation = file.generation,
                                                .weights = map_stage_weights(packed, shard, {}),
                                                .format = packed->format(),
                                                .kernels = cpu_kernels(""),
                                                .comms = std::move(comms),
                                                .n_threads = 1,
                                                .cpus = {},
                                                .context_length = 64,
                                                .max_slots = 2,
                                                .max_batch_tokens = 32,
                                                .kv_blocks = 8,
                                                .kv_dtype = KvPool::default_dtype(packed->format()),
                                                .kv_file = {}});
  }
  std::unique_ptr<WeightsLoader> make_loader(Engine& engine) {
    return std::make_unique<WeightsLoader>(
        engine, engine.generations().front()->weights.file->encodings(),
        WeightsLoader::Listener{.on_progress = [this](uint64_t done, uint64_t) { done_ = done; },
                                .on_prepared =
                                    [this](const WeightsPrepared& prepared) {
                                      const std::lock_guard lock(mutex_);
                                      told_.push_back(prepared);
                                      changed_.notify_all();
                                    }});
  }
  WeightsPrepared told() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kDeadline, [this] { return !told_.empty(); })) return {};
    WeightsPrepared first = std::move(told_.front());
    told_.pop_front();
    return first;
  }
  WeightsPrepared prepare(const WeightsFile& file) {
    loader_->prepare(file);
    return told();
  }
  // The logits after a prompt.
  static std::vector<float> logits(Engine& engine, uint64_t generation, int32_t slot) {
    StepPlan plan;
    plan.generation = generation;
    SequencePlan& s = plan.sequences.emplace_back();
    s.slot = slot;
    s.reset_slot = true;
    s.input_ids = {3, 1, 4, 1, 5, 9, 2, 6};
    s.new_blocks = {slot};
    s.want_logits = true;
    StepResult result;
    EXPECT_TRUE(engine.step(plan, result));
    return result.sequences.at(0).logits;
  }

  const TempFolder folder_;
  WeightsFile old_, new_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<WeightsLoader> loader_;
  uint64_t done_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<WeightsPrepared> told_;
};

TEST_F(WeightsLoaderTest, AnEngineComputesWithBoth) {
  const std::vector<float> before = logits(*engine_, 1, 0);
  loader_->set_busy(true);
  const WeightsPrepared prepared = prepare(new_);
  EXPECT_EQ(prepared.failure, "");
  EXPECT_EQ(prepared.generation, 2U);
  EXPECT_EQ(prepared.fingerprint, new_.fingerprint);
  EXPECT_EQ(prepared.numerics_id, engine_->numerics_id(WeightFormat::kBF16));
  EXPECT_GT(done_, 0U);
  engine_->add(loader_->take(2));
  const std::vector<float> after = logits(*make_engine({2, new_.path, new_.fingerprint}), 2, 0);
  EXPECT_NE(before, after);
  EXPECT_EQ(logits(*engine_, 2, 1), after);
  EXPECT_EQ(logits(*engine_, 1, 0), before);
  EXPECT_EQ(logits(*engine_, 2, 0), after);
  loader_->dispose(engine_->remove(1));
  EXPECT_EQ(engine_->remove(1), nullptr);
  EXPECT_EQ(logits(*engine_, 2, 1), after);
}

TEST_F(WeightsLoaderTest, SaysWhyItCannot) {
  WeightsFile wrong = new_;
  ++wrong.fingerprint;
  EXPECT_THAT(prepare(wrong).failure, HasSubstr("holds other weights"));
  wrong = new_;
  wrong.path += ".none";
  EXPECT_THAT(prepare(wrong).failure, HasSubstr("new.trireme.none: cannot be opened"));
  EXPECT_THAT(
      prepare(pack(TRIREME_SOURCE_DIR "/tests/golden/llama", "int8", WeightFormat::kI8)).failure,
      HasSubstr("weights of int8/256, not bfloat16"));
  EXPECT_THAT(
      prepare(pack(TRIREME_SOURCE_DIR "/tests/golden/qwen3", "qwen", WeightFormat::kBF16)).failure,
      HasSubstr("another model: architecture is"));
  {
    std::fstream file(new_.path, std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(fs::file_size(new_.path) - 5000);
    const char byte = static_cast<char>(file.seekg(at).get() ^ 1);
    file.seekp(at).put(byte);
  }
  EXPECT_THAT(prepare(new_).failure, HasSubstr("is damaged (its checksum does not fit)"));
}

TEST_F(WeightsLoaderTest, WhatIsGivenUpIsNotTold) {
  loader_->prepare(new_);
  loader_->give_up(2);
  WeightsFile again = new_;
  again.generation = 3;
  WeightsPrepared prepared = prepare(again);
  if (prepared.generation == 2) prepared = told();  // it was ready already
  EXPECT_EQ(prepared.generation, 3U);
  engine_->add(loader_->take(3));
  loader_->give_up(3);  // taken: no longer the loader's
  EXPECT_EQ(logits(*engine_, 3, 0), logits(*engine_, 3, 1));
}

}  // namespace
}  // namespace trireme
