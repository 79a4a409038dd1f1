#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace trireme {

// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void add(std::string_view bytes);
  std::array<unsigned char, 32> digest();  // once
  std::string hex();                       // the same in lower case; instead of digest()

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Of a whole file, as hex. Throws EnvironmentError when it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

// Names and seeds of a batch's answers. They follow from what is asked, so a line that is computed
// again, or by another replica, gets the same.
class BatchKey {
 public:
  // `input`: the input file's hash. `salt`: what else tells the answers from those of other
  // batches; it is in the names, not in the seeds.
  BatchKey(std::string input, std::string_view salt);

  // `prefix` and 24 hexadecimal digits. Lines count from 0, blank ones aside.
  std::string name(const char* prefix, int64_t line) const;
  // For a line that names no seed. Not negative as an int64_t: it goes through the request's JSON.
  int64_t seed(int64_t line) const;

 private:
  std::string input_;
  std::string named_;  // hash of input and salt
};

}  // namespace trireme
