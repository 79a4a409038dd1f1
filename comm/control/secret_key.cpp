#include "comm/control/secret_key.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "kernels/check.h"

namespace trireme {

SecretKey derive_key(std::string_view label, std::string_view secret) {
  const std::string text = fmt::format("{}:{}", label, secret);
  SecretKey key{};
  unsigned int n = 0;
  TRIREME_CHECK(EVP_Digest(text.data(), text.size(), key.data(), &n, EVP_sha256(), nullptr) == 1);
  TRIREME_CHECK(n == key.size());
  return key;
}

std::string random_salt() {
  std::array<unsigned char, kSaltBytes> bytes{};
  TRIREME_CHECK(RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) == 1);
  return {bytes.begin(), bytes.end()};
}

}  // namespace trireme
