#include "coordinator/batch/batch_key.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr size_t kReadBytes = 1U << 20;

std::array<unsigned char, 32> digest_of(const std::string& text) {
  Sha256 hash;
  hash.add(text);
  return hash.digest();
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  TRIREME_CHECK(state_->context != nullptr);
  TRIREME_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add(std::string_view bytes) {
  TRIREME_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::array<unsigned char, 32> Sha256::digest() {
  std::array<unsigned char, 32> out;
  TRIREME_CHECK(EVP_DigestFinal_ex(state_->context, out.data(), nullptr) == 1);
  return out;
}

std::string Sha256::hex() {
  std::string text;
  for (const unsigned char byte : digest()) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256_of_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  Sha256 hash;
  std::vector<char> bytes(kReadBytes);
  while (in) {
    in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    hash.add({bytes.data(), static_cast<size_t>(in.gcount())});
  }
  if (!in.eof()) {
    throw EnvironmentError(fmt::format("cannot read {}: {}; name a file that this user can read",
                                       path.string(), std::strerror(errno)));
  }
  return hash.hex();
}

BatchKey::BatchKey(std::string input, std::string_view salt) : input_(std::move(input)) {
  Sha256 hash;
  hash.add(input_);
  hash.add("\n");
  hash.add(salt);
  named_ = hash.hex();
}

std::string BatchKey::name(const char* prefix, int64_t line) const {
  const auto digest = digest_of(fmt::format("{} {} {}", named_, prefix, line));
  std::string name = prefix;
  for (size_t i = 0; i < 12; ++i) name += fmt::format("{:02x}", digest[i]);
  return name;
}

int64_t BatchKey::seed(int64_t line) const {
  const auto digest = digest_of(fmt::format("{} seed {}", input_, line));
  uint64_t seed = 0;
  std::memcpy(&seed, digest.data(), sizeof seed);
  return static_cast<int64_t>(seed & std::numeric_limits<int64_t>::max());
}

}  // namespace trireme
