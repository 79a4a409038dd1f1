#pragma once

#include <map>
#include <string>
#include <string_view>

#include "kernels/weight.h"

namespace trireme {

// How the linear weights of a packed file are encoded. Vectors are always float32.
struct PackedEncodings {
  WeightEncoding usual;
  std::map<std::string, WeightEncoding, std::less<>> others;  // of the tensors that differ

  PackedEncodings() = default;
  // Every weight in the format's usual encoding.
  PackedEncodings(WeightFormat format)  // NOLINT(google-explicit-constructor)
      : usual(default_encoding(format)) {}

  WeightEncoding of(std::string_view tensor) const {
    const auto found = others.find(tensor);
    return found == others.end() ? usual : found->second;
  }
};

// "int8/256", "int4/32": equal texts, equal numbers from equal sources. Tensors that differ from
// the usual encoding follow: "int4/32,embedding=int8/256".
std::string encodings_text(const PackedEncodings& encodings);

}  // namespace trireme
