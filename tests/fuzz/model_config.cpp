#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/arch_spec.h"
#include "model/model_folder.h"
#include "model/packed_header_json.h"
#include "model/rope_frequencies.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

// An accepted config can be put into a packed file and read again, and its positions have angles.
void check_config(const ModelConfig& config) {
  TRIREME_CHECK(config_fault(config).empty());
  const PackedJson json = packed_config_to_json(config);
  const ModelConfig again = packed_config_from_json(nlohmann::json::parse(json.dump()));
  TRIREME_CHECK(config_fault(again).empty());
  TRIREME_CHECK(packed_config_to_json(again) == json);

  const int32_t context_length = default_context_length(config);
  TRIREME_CHECK(context_length >= 1);
  const RopeFrequencies frequencies = rope_frequencies(config, context_length);
  TRIREME_CHECK(frequencies.inv_freq.size() == static_cast<size_t>(config.head_dim) / 2);
  TRIREME_CHECK(std::isfinite(frequencies.scale));
  for (const float f : frequencies.inv_freq) TRIREME_CHECK(std::isfinite(f));
}

}  // namespace
}  // namespace trireme

// The input is config.json and, behind a NUL, generation_config.json.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static const TempFolder folder;  // a model folder with nothing in it but the two files
  const std::string_view text = fuzz::text_of(data, size);
  const size_t end = text.find('\0');
  folder.write("config.json", text.substr(0, end));
  folder.write("generation_config.json",
               end == std::string_view::npos ? "{}" : text.substr(end + 1));
  fuzz::accepts([] { check_config(read_model_config(folder.path())); });
  return 0;
}
