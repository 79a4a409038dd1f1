#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/weight.h"

namespace trireme {

// What people call the formats, for messages and help.
constexpr const char* kWeightFormatNames = "bfloat16, float16, int8, int4 or float32";

const char* weight_format_name(WeightFormat format);  // "bfloat16"

// Also takes the short names "bf16" and "fp16"; none for any other.
std::optional<WeightFormat> find_weight_format(std::string_view name);

// As find_weight_format(). Throws EnvironmentError that names `what` ("--dtype") and the formats.
WeightFormat parse_weight_format(std::string_view what, std::string_view name);

}  // namespace trireme
