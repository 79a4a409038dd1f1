#include "worker/weight_verifier.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/packed_layout.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kDeadline{60};

class WeightVerifierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    pack_model(TRIREME_SOURCE_DIR "/tests/golden/llama", folder_ / "packed.trireme",
               WeightFormat::kBF16, {});
    file_ = PackedModel::open(folder_ / "packed.trireme");
  }

  // Flips a bit of one block's first byte; the mapping sees it.
  void damage(const char* tensor, int block) const {
    const auto at = file_->block(tensor, block).data - file_->block("embedding", 0).data;
    const auto data_begin =
        file_->size_bytes() - plan_packed_layout(file_->config(), file_->encodings()).data_bytes;
    std::fstream file(folder_ / "packed.trireme", std::ios::in | std::ios::out | std::ios::binary);
    const auto offset = static_cast<std::streamoff>(data_begin) + at;
    const char byte = static_cast<char>(file.seekg(offset).get() ^ 1);
    file.seekp(offset).put(byte);
  }
  std::string find_damage(int rank) const {
    const ShardPlan shard = *make_shard_plan(file_->config(), {2, 1}, rank);
    return file_->find_damage(&shard, [](uint64_t, uint64_t) { return true; });
  }

  const TempFolder folder_;
  std::shared_ptr<const PackedModel> file_;
};

TEST_F(WeightVerifierTest, TellsWhatIsDamagedAlsoWhileBusy) {
  damage("layers.1.down", 0);
  for (const bool busy : {false, true}) {
    std::promise<std::string> told;
    std::future<std::string> damage = told.get_future();
    WeightVerifier verifier(file_, *make_shard_plan(file_->config(), {1, 1}, 0), 0,
                            [&told](const std::string& text) { told.set_value(text); });
    verifier.set_busy(busy);
    ASSERT_EQ(damage.wait_for(kDeadline), std::future_status::ready);
    EXPECT_THAT(damage.get(),
                AllOf(HasSubstr("packed.trireme"), HasSubstr("leaf 0 of \"layers.1.down\""),
                      HasSubstr("trireme pack MODEL")));
  }
}

TEST_F(WeightVerifierTest, EndsWithoutWaitingForItsRests) {
  WeightVerifier verifier(file_, *make_shard_plan(file_->config(), {1, 1}, 0), 1 << 30,
                          [](const std::string&) { std::abort(); });
}

TEST_F(WeightVerifierTest, ARankLooksAtItsOwnBlocksOnly) {
  EXPECT_EQ(find_damage(0) + find_damage(1), "");
  damage("layers.0.o", 0);
  EXPECT_THAT(find_damage(0), HasSubstr("leaf 0 of \"layers.0.o\""));
  EXPECT_EQ(find_damage(1), "");
}

}  // namespace
}  // namespace trireme
