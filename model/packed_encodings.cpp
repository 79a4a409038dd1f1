#include "model/packed_encodings.h"

#include <fmt/core.h>

#include "model/weight_format.h"

namespace trireme {
namespace {

std::string encoding_text(WeightEncoding encoding) {
  std::string out = weight_format_name(encoding.format);
  if (encoding.group != 0) out += fmt::format("/{}", encoding.group);
  if (encoding.has_zeros) out += "z";
  return out;
}

}  // namespace

std::string encodings_text(const PackedEncodings& encodings) {
  std::string out = encoding_text(encodings.usual);
  for (const auto& [tensor, encoding] : encodings.others) {
    out += fmt::format(",{}={}", tensor, encoding_text(encoding));
  }
  return out;
}

}  // namespace trireme
