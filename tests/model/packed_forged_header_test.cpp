#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/checksum.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/weight_format.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using testing::environment_error;
using ::testing::HasSubstr;

// A file whose header says anything, with checksum and sizes that fit.
class ForgedHeader : public ::testing::Test {
 protected:
  void SetUp() override {
    auto config = testing::small_config("Qwen2ForCausalLM");
    config["num_hidden_layers"] = 1;
    config["vocab_size"] = 40;
    config["hidden_size"] = 6;
    testing::write_model(folder_.path(), config);
    PackedEncodings encodings = WeightFormat::kI4;
    encodings.others["embedding"] = default_encoding(WeightFormat::kI8);
    pack_model(folder_.path(), path_, encodings, {});
    whole_ = testing::read_file(path_);
    std::memcpy(&head_, whole_.data(), sizeof(head_));
    json_ = whole_.substr(sizeof(head_), head_.header_bytes);
  }
  std::string open_error(const std::string& json) {
    PackedHead head = head_;
    head.header_bytes = json.size();
    head.header_checksum = checksum64(std::as_bytes(std::span(json)));
    head.data_begin = round_up(sizeof(head) + json.size(), kPackedPage);
    head.file_bytes = head.data_begin + (whole_.size() - head_.data_begin);
    std::string bytes(head.data_begin, '\0');
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::copy(json.begin(), json.end(), bytes.begin() + sizeof(head));
    bytes += whole_.substr(head_.data_begin);
    return environment_error(
        [&] { read_packed_header(std::as_bytes(std::span(bytes)), "f.trireme"); });
  }
  std::string replaced(const std::string& from, const std::string& to) const {
    std::string out = json_;
    const size_t at = out.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return out.replace(at, from.size(), to);
  }

  testing::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "packed.trireme";
  std::string whole_;
  std::string json_;
  PackedHead head_;
};

TEST_F(ForgedHeader, WhatIsUnknownIsRefusedByName) {
  ASSERT_EQ(open_error(json_), "");
  const std::array<std::array<const char*, 3>, 9> cases = {{
      {R"("format":"int4")", R"("format":"q4_k")", R"("format" "q4_k")"},
      {R"("group_size":32)", R"("group_size":64)", R"("group_size" 64)"},
      {R"("scales":"bf16")", R"("scales":"float8")", R"("scales" "float8")"},
      {R"("zero_points":"none")", R"("zero_points":"int3")", R"("zero_points" "int3")"},
      {R"("sparsity":"none")", R"("sparsity":"2:4")", R"("sparsity" "2:4")"},
      {R"("layout":"panels")", R"("layout":"tiles")", R"("layout" "tiles")"},
      {R"("panel_columns":16)", R"("panel_columns":32)", R"("panel_columns" 32)"},
      {R"("k_step":8)", R"("k_step":16)", R"("k_step" 16)"},
      {R"("k_step":8)", R"("k_step":8,"codebook":1)", R"("codebook" 1)"},
  }};
  for (const auto& [from, to, said] : cases) {
    EXPECT_THAT(open_error(replaced(from, to)),
                AllOf(HasSubstr("f.trireme"), HasSubstr("this build cannot read"), HasSubstr(said),
                      HasSubstr("trireme pack MODEL f.trireme --format")));
  }
  EXPECT_THAT(open_error(replaced(R"("encoding":1)", R"("encoding":2)")),
              HasSubstr("\"embedding\" has encoding 2 of 2"));
  // Whole, and of another size than its encoding asks for.
  EXPECT_THAT(open_error(replaced(R"("encoding":1,)", "")), HasSubstr("the config asks for"));
}

TEST_F(ForgedHeader, ARefusalIsOneShortLine) {
  const std::string odd = R"("a\n)" + std::string(9000, 'b') + '"';
  for (const std::string& json :
       {replaced(R"("sparsity":"none")", R"("sparsity":)" + odd),
        replaced(R"("k_step":8)", R"("k_step":8,)" + odd + ":" + odd),
        replaced(R"("name":"embedding","encoding":1)", R"("name":)" + odd + R"(,"encoding":2)"),
        replaced(R"("encoding":1)", R"("encoding":)" + odd)}) {
    const std::string error = open_error(json);
    EXPECT_THAT(error, HasSubstr("trireme pack MODEL"));
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_LT(error.size(), 500U);
  }
}

TEST_F(ForgedHeader, ZeroPointsAreReadable) {
  // The blocks of int4 are longer with them, so the sizes no longer fit: but the encoding does.
  EXPECT_THAT(open_error(replaced(R"("zero_points":"none")", R"("zero_points":"uint8")")),
              HasSubstr("the config asks for"));
}

// Each number of the header as far out as it can be written.
TEST_F(ForgedHeader, NumbersThatDoNotFitAreRefused) {
  const std::array<const char*, 11> extremes = {"0",
                                                "-1",
                                                "2147483648",
                                                "9223372036854775807",
                                                "9223372036854775808",
                                                "-9223372036854775808",
                                                "18446744073709551615",
                                                "1e300",
                                                "-1e300",
                                                "0.5",
                                                "null"};
  const auto json = nlohmann::json::parse(json_);
  const std::vector<std::string> places = [&] {
    std::vector<std::string> out;
    const nlohmann::json flat = json.flatten();
    for (const auto& [path, value] : flat.items()) {
      if (value.is_number() && path.find("rope") == std::string::npos) out.push_back(path);
    }
    return out;
  }();
  ASSERT_GT(places.size(), 100U);
  for (const std::string& place : places) {
    const nlohmann::json::json_pointer at(place);
    std::vector<nlohmann::json> values;
    for (const char* extreme : extremes) values.push_back(nlohmann::json::parse(extreme));
    if (json[at].is_number_integer()) {  // that are the same in the low 32 bits
      for (const int shift : {32, 62}) {
        values.push_back(json[at].get<int64_t>() + (int64_t{1} << shift));
      }
    }
    for (const nlohmann::json& value : values) {
      const bool is_scale = place == "/config/attention_scale";
      const bool is_token = place.find("token_id") != std::string::npos;
      if (value == json[at] || (is_scale && value == 0.5) || (is_token && value == 0)) continue;
      nlohmann::json changed = json;
      changed[at] = value;
      EXPECT_THAT(open_error(changed.dump()), HasSubstr("trireme pack MODEL")) << place << value;
    }
  }
}

TEST_F(ForgedHeader, SizesOfTheHeadThatDoNotFitAreRefused) {
  const std::array<uint64_t, 6> extremes = {
      0, 1, uint64_t{1} << 62, (uint64_t{1} << 63) - 1, uint64_t{1} << 63, ~uint64_t{0}};
  for (uint64_t PackedHead::*field :
       {&PackedHead::header_bytes, &PackedHead::data_begin, &PackedHead::file_bytes}) {
    for (const uint64_t value : extremes) {
      PackedHead head = head_;
      head.*field = value;
      std::memcpy(whole_.data(), &head, sizeof(head));
      EXPECT_THAT(environment_error(
                      [&] { read_packed_header(std::as_bytes(std::span(whole_)), "f.trireme"); }),
                  HasSubstr("f.trireme: at byte "))
          << value;
    }
  }
}

TEST_F(ForgedHeader, ListsOfAnotherLengthAreRefused) {
  const auto json = nlohmann::json::parse(json_);
  const auto refuses = [&](const char* place, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json changed = json;
    change(changed[nlohmann::json::json_pointer(place)]);
    EXPECT_THAT(open_error(changed.dump()), HasSubstr("trireme pack MODEL")) << place;
  };
  const auto longer = [](nlohmann::json& list) {
    const nlohmann::json last = list.back();
    for (int i = 0; i < 1000; ++i) list.push_back(last);
  };
  const auto twice = [](nlohmann::json& list) { list.push_back(list.back()); };
  const auto empty = [](nlohmann::json& list) { list = nlohmann::json::array(); };
  for (const char* place : {"/encodings", "/config/layer_window", "/tensors", "/tensors/0/blocks",
                            "/tensors/0/blocks/0"}) {
    refuses(place, longer);
    refuses(place, empty);
    if (place != std::string_view("/encodings")) refuses(place, twice);
  }
  refuses("/config/eos_token_ids", [](nlohmann::json& list) { list = std::vector<int>(1000, 1); });
  refuses("/config", [](nlohmann::json& config) { config["n_experts"] = 8; });
  // Blocks that lie over each other.
  refuses("/tensors",
          [](nlohmann::json& tensors) { tensors[1]["blocks"][0][0] = tensors[0]["blocks"][0][0]; });
}

TEST_F(ForgedHeader, RandomMutationsOpenOrNameTheFile) {
  std::mt19937 random(17);
  const std::string characters = "0123456789-.,:\"{}[]etrufalsn ";
  int n_refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string json = json_;
    for (uint32_t change = random() % 3 + 1; change > 0; --change) {
      const size_t at = random() % json.size();
      switch (random() % 4) {
        case 0: json[at] = characters[random() % characters.size()]; break;
        case 1: json[at] = static_cast<char>(random()); break;
        case 2: json.erase(at, random() % 40); break;
        default: json.insert(at, json.substr(random() % json.size(), random() % 40)); break;
      }
    }
    const std::string error = open_error(json);
    if (error.empty()) continue;
    ++n_refused;
    ASSERT_THAT(error, HasSubstr("f.trireme")) << json;
    ASSERT_EQ(error.find('\n'), std::string::npos) << error;
  }
  EXPECT_GT(n_refused, 1000);
}

}  // namespace
}  // namespace trireme
