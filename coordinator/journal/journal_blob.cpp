#include "coordinator/journal/journal_blob.h"

#include <bit>
#include <cstring>
#include <limits>

#include "kernels/check.h"

namespace trireme {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename T>
std::vector<std::byte> values_blob(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

template <typename T>
std::optional<std::vector<T>> read_values(std::span<const std::byte> blob) {
  if (blob.size() % sizeof(T) != 0) return std::nullopt;
  std::vector<T> values(blob.size() / sizeof(T));
  if (!blob.empty()) std::memcpy(values.data(), blob.data(), blob.size());
  return values;
}

template <typename T>
void append(std::vector<std::byte>& blob, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  blob.insert(blob.end(), bytes.begin(), bytes.end());
}

template <typename T>
bool take(std::span<const std::byte>& blob, T* value) {
  if (blob.size() < sizeof(T)) return false;
  std::memcpy(value, blob.data(), sizeof(T));
  blob = blob.subspan(sizeof(T));
  return true;
}

}  // namespace

std::vector<std::byte> ids_blob(const std::vector<int32_t>& ids) { return values_blob(ids); }

std::vector<std::byte> floats_blob(const std::vector<float>& values) { return values_blob(values); }

std::vector<std::byte> tops_blob(const std::vector<std::vector<TokenLogprob>>& tops) {
  std::vector<std::byte> blob;
  for (const std::vector<TokenLogprob>& top : tops) {
    TRIREME_CHECK(top.size() <= std::numeric_limits<uint8_t>::max());
    append(blob, static_cast<uint8_t>(top.size()));
    for (const TokenLogprob& row : top) {
      append(blob, row.token_id);
      append(blob, row.logprob);
    }
  }
  return blob;
}

std::vector<std::byte> prompts_blob(const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<std::byte> blob;
  for (const std::vector<int32_t>& prompt : prompts) {
    append(blob, static_cast<uint32_t>(prompt.size()));
    const std::vector<std::byte> ids = ids_blob(prompt);
    blob.insert(blob.end(), ids.begin(), ids.end());
  }
  return blob;
}

std::optional<std::vector<int32_t>> read_ids(std::span<const std::byte> blob) {
  return read_values<int32_t>(blob);
}

std::optional<std::vector<float>> read_floats(std::span<const std::byte> blob) {
  return read_values<float>(blob);
}

std::optional<std::vector<std::vector<TokenLogprob>>> read_tops(std::span<const std::byte> blob) {
  std::vector<std::vector<TokenLogprob>> tops;
  uint8_t n_rows = 0;
  while (take(blob, &n_rows)) {
    std::vector<TokenLogprob>& top = tops.emplace_back(n_rows);
    for (TokenLogprob& row : top) {
      if (!take(blob, &row.token_id) || !take(blob, &row.logprob)) return std::nullopt;
    }
  }
  return tops;
}

std::optional<std::vector<std::vector<int32_t>>> read_prompts(std::span<const std::byte> blob) {
  std::vector<std::vector<int32_t>> prompts;
  uint32_t n_ids = 0;
  while (take(blob, &n_ids)) {
    const size_t size_bytes = size_t{n_ids} * sizeof(int32_t);
    if (blob.size() < size_bytes) return std::nullopt;
    prompts.push_back(*read_ids(blob.first(size_bytes)));
    blob = blob.subspan(size_bytes);
  }
  if (!blob.empty()) return std::nullopt;
  return prompts;
}

}  // namespace trireme
