#include "model/weight_format.h"

#include <array>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

struct FormatName {
  WeightFormat format;
  const char* name;
  const char* short_name;
};

constexpr std::array<FormatName, 5> kNames = {{
    {WeightFormat::kBF16, "bfloat16", "bf16"},
    {WeightFormat::kF16, "float16", "fp16"},
    {WeightFormat::kI8, "int8", "int8"},
    {WeightFormat::kI4, "int4", "int4"},
    {WeightFormat::kF32, "float32", "float32"},
}};

}  // namespace

const char* weight_format_name(WeightFormat format) {
  for (const FormatName& known : kNames) {
    if (known.format == format) return known.name;
  }
  TRIREME_CHECK_MSG(false, "a weight format without a name");
  return "";
}

std::optional<WeightFormat> find_weight_format(std::string_view name) {
  for (const FormatName& known : kNames) {
    if (name == known.name || name == known.short_name) return known.format;
  }
  return std::nullopt;
}

WeightFormat parse_weight_format(std::string_view what, std::string_view name) {
  if (const auto format = find_weight_format(name)) return *format;
  throw EnvironmentError(fmt::format("{} {} is unknown: use {}", what, name, kWeightFormatNames));
}

}  // namespace trireme
