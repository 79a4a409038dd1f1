#include "coordinator/http/embedding.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>

#include "kernels/check.h"

namespace trireme {
namespace {

static_assert(std::endian::native == std::endian::little);

double dot(std::span<const float> a, std::span<const float> b) {
  TRIREME_CHECK(a.size() == b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

std::vector<float> make_embedding(std::vector<float> hidden, int32_t dimensions, bool normalize) {
  TRIREME_CHECK(dimensions > 0 && static_cast<size_t>(dimensions) <= hidden.size());
  hidden.resize(static_cast<size_t>(dimensions));
  hidden.shrink_to_fit();
  const double length = std::sqrt(dot(hidden, hidden));
  if (!normalize || length == 0) return hidden;
  for (float& value : hidden) value = static_cast<float>(static_cast<double>(value) / length);
  return hidden;
}

double cosine_similarity(std::span<const float> a, std::span<const float> b) {
  const double lengths = std::sqrt(dot(a, a)) * std::sqrt(dot(b, b));
  return lengths == 0 ? 0 : std::clamp(dot(a, b) / lengths, -1.0, 1.0);
}

std::string base64_of(std::span<const float> values) {
  std::string text((values.size_bytes() + 2) / 3 * 4 + 1, '\0');  // EVP ends it with a zero
  const int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                reinterpret_cast<const unsigned char*>(values.data()),
                                static_cast<int>(values.size_bytes()));
  text.resize(static_cast<size_t>(n));
  return text;
}

void append_json_list(std::span<const float> values, std::string* out) {
  auto to = std::back_inserter(*out);
  out->push_back('[');
  for (size_t i = 0; i < values.size(); ++i)
    fmt::format_to(to, "{}{}", i == 0 ? "" : ",", values[i]);
  out->push_back(']');
}

}  // namespace trireme
