#include "model/safetensors.h"

#include <cstring>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::environment_error;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::write_file;

std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + header + std::string(data_bytes, '\1');
}

std::string entry(const char* dtype, const Json& shape, const Json& offsets) {
  return Json{{"dtype", dtype}, {"shape", shape}, {"data_offsets", offsets}}.dump();
}

class Safetensors : public ::testing::Test {
 protected:
  std::string error_of(const std::string& bytes) {
    write_file(path_, bytes);
    return environment_error([this] { SafetensorsFile file(path_); });
  }
  TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.safetensors";
};

TEST_F(Safetensors, ReadsTensors) {
  write_file(path_, testing::safetensors_bytes(
                        {{"a", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"b", {{2}, {-1, 0.5}}}}, "F32"));
  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 2U);  // not __metadata__
  const SourceTensor& b = file.tensors().at("b");
  EXPECT_EQ(b.dtype, SourceDType::kF32);
  EXPECT_THAT(b.shape, ElementsAre(2));
  EXPECT_EQ(b.size_bytes, 8U);
  float values[2];
  std::memcpy(values, b.data, 8);
  EXPECT_EQ(values[0], -1.0F);
  EXPECT_EQ(values[1], 0.5F);
}

TEST_F(Safetensors, HolesScalarsAndEmptyTensorsAreFine) {
  const std::string header = "{\"a\":" + entry("F32", Json::array(), {4, 8}) +
                             ",\"b\":" + entry("BF16", {0, 5}, {8, 8}) +
                             ",\"c\":" + entry("I64", {1}, {16, 24}) + "}   ";
  EXPECT_EQ(error_of(file_of(header, 24)), "");
}

TEST_F(Safetensors, TruncatedAtEveryByte) {
  const std::string whole = testing::safetensors_bytes(
      {{"a", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"b", {{2}, {1, 2}}}}, "F16");
  ASSERT_EQ(error_of(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string error = error_of(whole.substr(0, size));
    SCOPED_TRACE(size);
    EXPECT_THAT(error, AllOf(HasSubstr("model.safetensors: at byte "), HasSubstr("download")));
  }
}

TEST_F(Safetensors, DamagedAtEveryByte) {
  const std::string whole = testing::safetensors_bytes(
      {{"a", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"b", {{2}, {1, 2}}}}, "BF16");
  std::mt19937 random(5);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ static_cast<char>(1 + random() % 255));
    write_file(path_, damaged);
    // Either refused, or every tensor lies inside the file.
    environment_error([&] {
      const SafetensorsFile file(path_);
      for (const auto& [name, tensor] : file.tensors()) {
        EXPECT_LE(tensor.file_offset + tensor.size_bytes, whole.size());
        std::string copy(tensor.size_bytes, '\0');
        std::memcpy(copy.data(), tensor.data, tensor.size_bytes);
      }
    });
  }
}

TEST_F(Safetensors, HeaderSize) {
  std::string bytes = file_of("{}", 0);
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{100'000'001}, ~uint64_t{0}}) {
    std::memcpy(bytes.data(), &size, 8);
    EXPECT_THAT(error_of(bytes), HasSubstr("header size is " + std::to_string(size)));
  }
  const uint64_t size = 3;
  std::memcpy(bytes.data(), &size, 8);
  EXPECT_THAT(error_of(bytes), HasSubstr("the file ends after 10"));
}

TEST_F(Safetensors, Overlap) {
  const std::string header =
      "{\"one\":" + entry("F32", {2}, {0, 8}) + ",\"two\":" + entry("F32", {2}, {7, 15}) + "}";
  EXPECT_THAT(error_of(file_of(header, 16)),
              AllOf(HasSubstr("\"one\" and \"two\" overlap"),
                    HasSubstr("at byte " + std::to_string(8 + header.size() + 7))));
}

TEST_F(Safetensors, EachBadEntryIsNamed) {
  struct Row {
    std::string entry;
    const char* says;
  };
  const std::vector<Row> rows = {
      {"3", "no dtype, shape and data_offsets"},
      {R"({"dtype":"F32","shape":[1]})", "no dtype, shape and data_offsets"},
      {R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})", "no dtype, shape and data_offsets"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})", "no dtype"},
      {entry("Q4", {1}, {0, 4}), R"(unknown dtype "Q4")"},
      {entry("F32", {-1}, {0, 4}), "impossible shape"},
      {entry("F32", {1.0}, {0, 4}), "impossible shape"},
      {entry("F32", {"1"}, {0, 4}), "impossible shape"},
      {entry("F32", {1LL << 62, 1LL << 62}, {0, 4}), "impossible shape"},
      {entry("F32", {1LL << 62}, {0, 4}), "impossible shape"},
      {entry("F32", {1, 1, 1, 1, 1, 1, 1, 1, 1}, {0, 4}), "over 8 dimensions"},
      {entry("F32", {1}, {-4, 0}), "impossible data_offsets"},
      {entry("F32", {1}, {8, 4}), "impossible data_offsets"},
      {entry("F32", {1}, {0, ~0ULL}), "impossible data_offsets"},
      {entry("F32", {1}, {16, 20}), "ends at byte 20 of the data, which has only 16"},
      {entry("F32", {2}, {0, 4}), "needs 8 bytes, but its data_offsets span 4"},
  };
  for (const Row& row : rows) {
    const std::string error = error_of(file_of("{\"name\":" + row.entry + "}", 16));
    SCOPED_TRACE(row.entry);
    EXPECT_THAT(error,
                AllOf(HasSubstr("model.safetensors"), HasSubstr("\"name\""), HasSubstr(row.says)));
  }
  EXPECT_THAT(error_of(file_of("[]", 0)), HasSubstr("not a JSON object"));
  const std::string twice = entry("F32", {1}, {0, 4});
  EXPECT_THAT(error_of(file_of("{\"a\":" + twice + ",\"a\":" + twice + "}", 4)),
              HasSubstr("\"a\" twice"));
}

}  // namespace
}  // namespace trireme
