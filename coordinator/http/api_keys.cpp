#include "coordinator/http/api_keys.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "coordinator/http/reply_fields.h"
#include "coordinator/http/secret_file.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr size_t kMaxKeys = 1000;
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMinKeyBytes = 16;
constexpr size_t kMaxKeyBytes = 512;
constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr int32_t kMostRequests = 100000;
constexpr std::string_view kHashed = "sha256:";
constexpr std::string_view kSpaces = " \t\r";

using Sha256 = std::array<unsigned char, 32>;

Sha256 sha256(std::string_view text) {
  Sha256 out{};
  unsigned int n = 0;
  TRIREME_CHECK(EVP_Digest(text.data(), text.size(), out.data(), &n, EVP_sha256(), nullptr) == 1);
  TRIREME_CHECK(n == out.size());
  return out;
}

Sha256 from_hex(std::string_view hex) {
  Sha256 out{};
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    throw EnvironmentError("after sha256: there must be 64 hexadecimal digits");
  };
  if (hex.size() != 2 * out.size()) {
    throw EnvironmentError("after sha256: there must be 64 hexadecimal digits");
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<unsigned char>(16 * digit(hex[2 * i]) + digit(hex[2 * i + 1]));
  }
  return out;
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
             "_.-") == std::string_view::npos;
}

// As a header can carry it, and as nobody guesses it.
bool is_key(std::string_view key) {
  return key.size() >= kMinKeyBytes && key.size() <= kMaxKeyBytes &&
         std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

// The first word of `rest`, which is left with what is behind it; empty: there is none.
std::string_view take_word(std::string_view& rest) {
  rest.remove_prefix(std::min(rest.find_first_not_of(kSpaces), rest.size()));
  const std::string_view word = rest.substr(0, rest.find_first_of(kSpaces));
  rest.remove_prefix(word.size());
  return word;
}

int32_t number_of(std::string_view name, std::string_view text, int32_t low, int32_t high) {
  int32_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, number);
  if (problem != std::errc() || stop != end || number < low || number > high)
    throw EnvironmentError(fmt::format("{} must be a number from {} to {}", name, low, high));
  return number;
}

// Never says what it was given: that may be the rest of a key with spaces in it.
KeyTerms read_terms(std::string_view rest) {
  KeyTerms terms;
  for (std::string_view word = take_word(rest); !word.empty(); word = take_word(rest)) {
    const std::string_view name = word.substr(0, word.find('='));
    const std::string_view value = word.substr(std::min(name.size() + 1, word.size()));
    if (name == "max_requests" && terms.max_requests == 0) {
      terms.max_requests = number_of(name, value, 1, kMostRequests);
    } else if (name == "priority" && !terms.priority) {
      terms.priority = number_of(name, value, -kMaxPriority, kMaxPriority);
    } else {
      throw EnvironmentError("behind a key there may be max_requests=N and priority=N, each once");
    }
  }
  return terms;
}

}  // namespace

void ApiKeys::add(std::string_view name, std::string_view value) {
  Entry entry{.name = std::string(name), .sha256 = {}, .terms = {}};
  if (value.starts_with(kHashed)) {
    entry.sha256 = from_hex(value.substr(kHashed.size()));
  } else if (is_key(value)) {
    entry.sha256 = sha256(value);
  } else {
    throw EnvironmentError(fmt::format("a key must have {} to {} printable characters, no spaces",
                                       kMinKeyBytes, kMaxKeyBytes));
  }
  for (const Entry& other : entries_) {
    if (other.name == entry.name) {
      throw EnvironmentError(fmt::format("the name {} is there twice", entry.name));
    }
    if (other.sha256 == entry.sha256) {
      throw EnvironmentError(fmt::format("{} and {} have the same key", other.name, entry.name));
    }
  }
  if (entries_.size() == kMaxKeys) {
    throw EnvironmentError(fmt::format("there are more than {} keys", kMaxKeys));
  }
  entries_.push_back(std::move(entry));
}

void ApiKeys::add_line(std::string_view line) {
  const size_t begin = line.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos || line[begin] == '#') return;
  line = line.substr(begin, line.find_last_not_of(kSpaces) + 1 - begin);
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_name(line.substr(0, colon))) {
    throw EnvironmentError(
        "it must be name:key or name:sha256:HEX, the name of letters, digits, "
        "'_', '.' and '-'");
  }
  const std::string_view value = line.substr(colon + 1);
  const size_t end = std::min(value.find_first_of(kSpaces), value.size());
  add(line.substr(0, colon), value.substr(0, end));
  entries_.back().terms = read_terms(value.substr(end));
}

ApiKeys ApiKeys::read(const std::filesystem::path& file, std::string_view from_environment) {
  ApiKeys keys;
  if (!from_environment.empty()) {
    try {
      keys.add("environment", from_environment);
    } catch (const EnvironmentError& error) {
      throw EnvironmentError(fmt::format("TRIREME_API_KEY: {}", error.what()));
    }
  }
  if (file.empty()) return keys;
  check_secret_file(file, "--api-keys");
  std::string text(kMaxFileBytes + 1, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kMaxFileBytes) {
    throw EnvironmentError(
        fmt::format("--api-keys {}: longer than {} bytes", file.string(), kMaxFileBytes));
  }
  int number = 0;
  const size_t n_before = keys.size();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    ++number;
    try {
      keys.add_line(std::string_view(text).substr(begin, end - begin));
    } catch (const EnvironmentError& error) {
      throw EnvironmentError(
          fmt::format("--api-keys {} line {}: {}", file.string(), number, error.what()));
    }
    begin = end + 1;
  }
  OPENSSL_cleanse(text.data(), text.size());
  // Asked for keys and given none, it must not serve everybody.
  if (keys.size() == n_before) {
    throw EnvironmentError(fmt::format("--api-keys {}: no key is in it", file.string()));
  }
  return keys;
}

std::optional<std::string> ApiKeys::find(std::string_view key) const {
  const Sha256 hash = sha256(key);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.sha256.data(), hash.data(), hash.size()) == 0) found = &entry;
  }
  if (found == nullptr) return std::nullopt;
  return found->name;
}

std::map<std::string, KeyTerms> ApiKeys::terms() const {
  std::map<std::string, KeyTerms> terms;
  for (const Entry& entry : entries_) terms[entry.name] = entry.terms;
  return terms;
}

}  // namespace trireme
