#include "model/packed_model.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/bf16.h"
#include "model/model_folder.h"
#include "model/packed_header.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using testing::environment_error;
using ::testing::HasSubstr;
using testing::TestTensor;
using testing::TestTensors;
using testing::write_file;

// Element (n, k) of a packed block.
float element(const PackedModel::Block& block, WeightFormat format, int64_t n, int64_t k) {
  const int64_t panel = n / kPanelColumns * k_padded(WeightFormat::kBF16, block.k) * kPanelColumns;
  const int64_t lane = n % kPanelColumns;
  if (format == WeightFormat::kF32) {
    return reinterpret_cast<const float*>(block.data)[panel + k * kPanelColumns + lane];
  }
  const int64_t pair = k / 2 * kPanelColumns + lane;
  return to_float(reinterpret_cast<const BF16*>(block.data)[panel + pair * 2 + k % 2]);
}

// The whole tensor again, put together from its blocks; checks what pads them.
class Unpacker {
 public:
  Unpacker(const PackedModel& model, const WeightSpec& spec)
      : model_(model), spec_(spec), cuts_(model_cuts(model.config())) {}

  void expect_equal(const TestTensors& weights) {
    const TestTensor& weight = weights.at(spec_.hf_name);
    const auto parts = block_parts(spec_, model_.config(), cuts_);
    ASSERT_EQ(model_.n_blocks(spec_.name), static_cast<int>(parts.size()));
    size_t n_elements = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      const PackedModel::Block block = model_.block(spec_.name, static_cast<int>(i));
      ASSERT_EQ(block.n, parts[i].columns.size());
      ASSERT_EQ(block.k, parts[i].inputs.size());
      ASSERT_EQ(reinterpret_cast<uintptr_t>(block.data) % kPackedAlignment, 0U);
      if (spec_.split == Split::kWhole) {
        expect_vector(reinterpret_cast<const float*>(block.data), block.n, weight.values, 0);
      } else {
        expect_panels(block, parts[i], weight);
      }
      ASSERT_EQ(block.bias != nullptr, !spec_.hf_bias.empty());
      if (block.bias != nullptr) {
        expect_vector(block.bias, block.n, weights.at(spec_.hf_bias).values,
                      parts[i].columns.begin);
      }
      n_elements += static_cast<size_t>(block.n) * static_cast<size_t>(block.k);
    }
    EXPECT_EQ(n_elements, weight.values.size());
  }

 private:
  static void expect_vector(const float* data, int32_t n, const std::vector<float>& values,
                            int32_t begin) {
    for (int64_t i = 0; i < n_padded(n); ++i) {
      ASSERT_EQ(data[i], i < n ? values[static_cast<size_t>(begin + i)] : 0.0F);
    }
  }
  void expect_panels(const PackedModel::Block& block, const BlockPart& part,
                     const TestTensor& weight) {
    for (int64_t n = 0; n < n_padded(block.n); ++n) {
      for (int64_t k = 0; k < k_padded(WeightFormat::kBF16, block.k); ++k) {
        const auto at =
            static_cast<size_t>((part.columns.begin + n) * weight.shape[1] + part.inputs.begin + k);
        const bool inside = n < block.n && k < block.k;
        ASSERT_EQ(element(block, model_.format(), n, k), inside ? weight.values[at] : 0.0F)
            << n << ", " << k;
      }
    }
  }

  const PackedModel& model_;
  const WeightSpec& spec_;
  ModelCuts cuts_;
};

Json config_with(const char* arch, const Json& changes = Json::object()) {
  Json config = testing::small_config(arch);
  config.merge_patch(changes);
  return config;
}

void expect_round_trip(const Json& config, const char* dtype) {
  const testing::TempFolder folder;
  const TestTensors weights = testing::write_model(folder.path(), config, dtype);
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    const auto path = folder.path() / "packed";
    uint64_t last = 0;
    uint64_t total = 0;
    pack_model(folder.path(), path, format, [&](uint64_t done, uint64_t all) {
      EXPECT_GT(done, last);
      EXPECT_LE(done, all);
      last = done;
      total = all;
    });
    EXPECT_GT(last, total - kPackedAlignment);
    const auto model = PackedModel::open(path);
    EXPECT_EQ(model->format(), format);
    EXPECT_EQ(model->path(), path);
    EXPECT_EQ(model->size_bytes(), std::filesystem::file_size(path));
    EXPECT_EQ(model->size_bytes(), packed_file_bytes(model->config(), format));
    model->verify({});
    const auto specs = find_architecture(model->config().architecture)->weights(model->config());
    for (const WeightSpec& spec : specs) {
      SCOPED_TRACE(config.dump() + " " + spec.name);
      Unpacker(*model, spec).expect_equal(weights);
    }
  }
}

TEST(PackedModel, RoundTripOfEveryArchitectureAndType) {
  expect_round_trip(config_with("LlamaForCausalLM", {{"mlp_bias", true}, {"attention_bias", true}}),
                    "F32");
  expect_round_trip(config_with("MistralForCausalLM"), "F16");
  expect_round_trip(config_with("Qwen2ForCausalLM", {{"tie_word_embeddings", true}}), "BF16");
  expect_round_trip(config_with("Qwen3ForCausalLM"), "BF16");
}

TEST(PackedModel, RoundTripOfRandomShapes) {
  std::mt19937 random(11);
  const auto from_1_to = [&random](uint32_t n) { return static_cast<int>(random() % n) + 1; };
  for (int trial = 0; trial < 12; ++trial) {
    const int n_kv_heads = from_1_to(5);
    const Json changes = {{"hidden_size", from_1_to(70)},
                          {"intermediate_size", from_1_to(700)},
                          {"num_hidden_layers", from_1_to(2)},
                          {"num_key_value_heads", n_kv_heads},
                          {"num_attention_heads", n_kv_heads * from_1_to(5)},
                          {"head_dim", 2 * from_1_to(12)},
                          {"vocab_size", 2 + from_1_to(2500)}};
    expect_round_trip(config_with("Qwen2ForCausalLM", changes), "BF16");
  }
}

TEST(PackedModel, ConfigRoundTrip) {
  const testing::TempFolder folder;
  const Json rope = {{"rope_type", "yarn"},     {"factor", 3.7},     {"beta_fast", 31.5},
                     {"attention_factor", 1.1}, {"mscale", 0.7},     {"mscale_all_dim", 0.3},
                     {"beta_slow", 1.5},        {"truncate", false}, {"rope_theta", 12345.6}};
  testing::write_model(folder.path(), config_with("Qwen3ForCausalLM", {{"rope_parameters", rope},
                                                                       {"use_sliding_window", true},
                                                                       {"sliding_window", 24},
                                                                       {"max_window_layers", 1},
                                                                       {"bos_token_id", 4},
                                                                       {"eos_token_id", {7, 9}}}));
  pack_model(folder.path(), folder.path() / "packed", WeightFormat::kBF16, {});
  const ModelConfig a = read_model_config(folder.path());
  const ModelConfig b = PackedModel::open(folder.path() / "packed")->config();
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.attention_scale, b.attention_scale);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.max_position, b.max_position);
  EXPECT_EQ(a.layer_window, b.layer_window);
  EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
  EXPECT_EQ(a.bos_token_id, b.bos_token_id);
  EXPECT_EQ(a.rope.scaling, b.rope.scaling);
  EXPECT_EQ(a.rope.theta, b.rope.theta);
  EXPECT_EQ(a.rope.factor, b.rope.factor);
  EXPECT_EQ(a.rope.original_max_position, b.rope.original_max_position);
  EXPECT_EQ(a.rope.beta_fast, b.rope.beta_fast);
  EXPECT_EQ(a.rope.beta_slow, b.rope.beta_slow);
  EXPECT_EQ(a.rope.attention_factor, b.rope.attention_factor);
  EXPECT_EQ(a.rope.mscale, b.rope.mscale);
  EXPECT_EQ(a.rope.mscale_all_dim, b.rope.mscale_all_dim);
  EXPECT_EQ(a.rope.truncate, b.rope.truncate);
}

TEST(PackedModel, ATiedHeadIsTheEmbedding) {
  const testing::TempFolder folder;
  testing::write_model(folder.path(),
                       config_with("LlamaForCausalLM", {{"tie_word_embeddings", true}}));
  pack_model(folder.path(), folder.path() / "packed", WeightFormat::kBF16, {});
  const auto model = PackedModel::open(folder.path() / "packed");
  EXPECT_TRUE(model->has("lm_head"));
  EXPECT_FALSE(model->has("layers.0.q_norm"));
  EXPECT_EQ(model->block("lm_head", 1).data, model->block("embedding", 1).data);
}

TEST(PackedModel, TheFingerprintIsThatOfTheWeights) {
  const testing::TempFolder folder;
  const auto fingerprint = [&](uint32_t seed) {
    testing::write_model(folder.path(), config_with("LlamaForCausalLM"), "BF16", seed);
    pack_model(folder.path(), folder.path() / "packed", WeightFormat::kBF16, {});
    return PackedModel::open(folder.path() / "packed")->fingerprint();
  };
  EXPECT_EQ(fingerprint(1), fingerprint(1));
  EXPECT_NE(fingerprint(1), fingerprint(2));
}

TEST(PackedModel, TheLayoutIsLeafMajorInsideALayer) {
  const testing::TempFolder folder;
  testing::write_model(folder.path(), config_with("LlamaForCausalLM"));
  const ModelConfig config = read_model_config(folder.path());
  const PackedLayout layout = plan_packed_layout(config, WeightFormat::kBF16);
  std::string order;
  for (const PackedLayout::BlockId id : layout.order) {
    const std::string& name = layout.tensors[static_cast<size_t>(id.tensor)].spec.name;
    if (!name.starts_with("layers.1.")) continue;
    order += name.substr(9) + std::to_string(id.block) + " ";
  }
  // Six heads, three KV heads: KV head j begins in leaf 2 j.
  EXPECT_EQ(order,
            "input_norm0 post_norm0 q0 k0 v0 o0 q1 o1 q2 k1 v1 o2 q3 o3 q4 k2 v2 o4 q5 o5 "
            "gate0 up0 down0 gate1 up1 down1 gate2 up2 down2 gate3 up3 down3 gate4 up4 down4 "
            "gate5 up5 down5 gate6 up6 down6 ");
}

// Flips bits of one byte of a file, and back.
class Damage {
 public:
  Damage(const std::filesystem::path& path, uint64_t offset, char bits)
      : path_(path), offset_(static_cast<std::streamoff>(offset)), bits_(bits) {
    flip();
  }
  ~Damage() { flip(); }
  Damage(const Damage&) = delete;
  Damage& operator=(const Damage&) = delete;

 private:
  void flip() {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    char byte = 0;
    file.seekg(offset_).get(byte);
    file.seekp(offset_).put(static_cast<char>(byte ^ bits_));
  }
  const std::filesystem::path& path_;
  std::streamoff offset_;
  char bits_;
};

class DamagedPackedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_model(folder_.path(), config_with("Qwen2ForCausalLM", {{"num_hidden_layers", 1},
                                                                          {"vocab_size", 40},
                                                                          {"hidden_size", 6}}));
    pack_model(folder_.path(), path_, WeightFormat::kBF16, {});
    whole_ = testing::read_file(path_);
  }
  std::string open_error(const std::string& bytes) {
    write_file(path_, bytes);
    return environment_error([this] { PackedModel::open(path_); });
  }
  testing::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "packed.trireme";
  std::string whole_;
};

TEST_F(DamagedPackedModel, TruncatedAnywhere) {
  std::mt19937 random(3);
  ASSERT_EQ(open_error(whole_), "");
  for (size_t size = 0; size < whole_.size(); size += size < 200 ? 1 : 1 + random() % 997) {
    EXPECT_THAT(open_error(whole_.substr(0, size)),
                AllOf(HasSubstr("packed.trireme"), HasSubstr("trireme pack MODEL")));
  }
  EXPECT_THAT(open_error(whole_ + "x"), HasSubstr("its head says"));
}

TEST_F(DamagedPackedModel, AnyByteOfTheHeader) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, whole_.data() + 16, 8);
  std::mt19937 random(4);
  for (size_t i = 0; i < sizeof(PackedHead) + header_bytes; ++i) {
    const Damage damage(path_, i, static_cast<char>(1 + random() % 255));
    ASSERT_THAT(environment_error([this] { PackedModel::open(path_); }),
                AllOf(HasSubstr("packed.trireme: at byte "), HasSubstr("trireme pack MODEL")))
        << i;
  }
}

TEST_F(DamagedPackedModel, AnyByteOfABlockIsFoundByVerify) {
  const PackedHeader header = read_packed_header(std::as_bytes(std::span(whole_)), path_.string());
  std::mt19937 random(4);
  for (const PackedLayout::BlockId id : header.layout.order) {
    const PackedBlock& block = header.layout.at(id);
    const uint64_t at = header.data_begin + block.offset + random() % (block.end - block.offset);
    const Damage damage(path_, at, static_cast<char>(1 + random() % 255));
    const std::string error = environment_error([this] { PackedModel::open(path_)->verify({}); });
    EXPECT_THAT(error,
                AllOf(HasSubstr("at byte " + std::to_string(header.data_begin + block.offset)),
                      HasSubstr("is damaged"), HasSubstr("trireme pack MODEL")));
  }
}

// A header that is whole by its checksum and says something else.
TEST_F(DamagedPackedModel, AForgedHeader) {
  const PackedHeader good = read_packed_header(std::as_bytes(std::span(whole_)), path_.string());
  const auto forge = [&](const std::function<void(PackedHeader&)>& change) {
    PackedHeader header = good;
    change(header);
    return open_error(write_packed_header(header) + whole_.substr(good.data_begin));
  };
  ASSERT_EQ(forge([](PackedHeader&) {}), "");
  const std::vector<std::function<void(PackedHeader&)>> changes = {
      [](PackedHeader& h) { h.encodings = WeightFormat::kF32; },
      [](PackedHeader& h) { h.config.hidden_size = 1 << 30; },
      [](PackedHeader& h) { h.config.n_layers = 0; },
      [](PackedHeader& h) { h.config.n_layers = 2; },
      [](PackedHeader& h) { h.config.n_kv_heads = 0; },
      [](PackedHeader& h) { h.config.head_dim = 6; },
      [](PackedHeader& h) { h.config.vocab_size = 72; },
      [](PackedHeader& h) { h.config.architecture = "GPT2LMHeadModel"; },
      [](PackedHeader& h) { h.config.layer_window.clear(); },
      [](PackedHeader& h) { h.config.rope.theta = 0.0; },
      [](PackedHeader& h) { h.config.eos_token_ids = {40}; },
      [](PackedHeader& h) { h.config.qkv_bias = false; },
      [](PackedHeader& h) { h.layout.tensors[2].blocks[0].offset += 64; },
      [](PackedHeader& h) { h.layout.tensors[2].blocks[0].size_bytes = ~0ULL; },
      [](PackedHeader& h) { h.layout.tensors[3].blocks[0].bias_offset += 64; },
      [](PackedHeader& h) { h.layout.tensors[3].blocks.pop_back(); },
      [](PackedHeader& h) { h.layout.tensors[3].spec.name = "x"; },
      [](PackedHeader& h) { h.layout.tensors.pop_back(); },
      [](PackedHeader& h) { h.layout.data_bytes = ~0ULL << 20; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_THAT(forge(changes[i]), HasSubstr("trireme pack MODEL")) << i;
  }
}

TEST_F(DamagedPackedModel, AnotherVersionSaysSo) {
  whole_[8] = 1;
  EXPECT_THAT(open_error(whole_),
              AllOf(HasSubstr("packed version 1, but this build reads version 2"),
                    HasSubstr("trireme pack MODEL " + path_.string() + " --format FORMAT")));
}

TEST(PackModel, LeavesNothingWhenItFails) {
  const testing::TempFolder folder;
  testing::write_model(folder.path() / "model", config_with("LlamaForCausalLM"));
  std::filesystem::create_directories(folder.path() / "out");
  const auto stop = [](uint64_t done, uint64_t total) {
    if (done > total / 2) throw EnvironmentError("stopped");
  };
  EXPECT_EQ(environment_error([&] {
              pack_model(folder.path() / "model", folder.path() / "out/packed", WeightFormat::kBF16,
                         stop);
            }),
            "stopped");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "out"));
  EXPECT_THAT(environment_error([&] {
                pack_model(folder.path() / "model", folder.path() / "none/packed",
                           WeightFormat::kBF16, {});
              }),
              HasSubstr("none/packed: cannot be created"));
}

// A limit on the size of files stands for the disk that has no room.
TEST(PackModel, ADiskWithoutRoomIsToldAndLeftClean) {
  const testing::TempFolder folder;
  testing::write_model(folder.path() / "model", config_with("LlamaForCausalLM"));
  std::filesystem::create_directories(folder.path() / "out");
  const auto pack_with_limit = [&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string error = environment_error([&] {
      pack_model(folder.path() / "model", folder.path() / "out/packed", WeightFormat::kBF16, {});
    });
    std::fprintf(stderr, "%s\n", error.c_str());
    ::_exit(std::filesystem::is_empty(folder.path() / "out") ? 0 : 1);
  };
  EXPECT_EXIT(pack_with_limit(), ::testing::ExitedWithCode(0),
              "packed: cannot be written .*File too large; make room");
}

}  // namespace
}  // namespace trireme
