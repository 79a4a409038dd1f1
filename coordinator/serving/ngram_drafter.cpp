#include "coordinator/serving/ngram_drafter.h"

#include <algorithm>

#include "coordinator/serving/sequence.h"

namespace trireme {
namespace {

// FNV-1a over the tokens [begin, end) and their number.
uint64_t hash_of(const TokenLog& log, int32_t begin, int32_t end) {
  uint64_t hash = 0xCBF29CE484222325U ^ static_cast<uint64_t>(end - begin);
  for (int32_t i = begin; i < end; ++i) {
    hash = (hash ^ static_cast<uint32_t>(log.token(i))) * 0x100000001B3U;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

std::vector<int32_t> NgramDrafter::guess(const TokenLog& log, int32_t n) {
  // Those at the end are noted once something follows them.
  for (; n_noted_ < log.n_known(); ++n_noted_) note(log, n_noted_);
  const int32_t begin = find(log);
  std::vector<int32_t> guesses;
  if (begin < 0) return guesses;
  const int32_t end = std::min(log.n_known(), begin + n);
  for (int32_t i = begin; i < end; ++i) guesses.push_back(log.token(i));
  // What repeats itself with a period shorter than n goes on.
  for (size_t i = 0; begin + n > end && static_cast<int32_t>(guesses.size()) < n; ++i)
    guesses.push_back(guesses[i]);
  return guesses;
}

void NgramDrafter::note(const TokenLog& log, int32_t end) {
  for (int32_t n = kShortest; n <= kLongest; ++n) {
    if (n <= end) behind_[hash_of(log, end - n, end)] = end;
  }
}

int32_t NgramDrafter::find(const TokenLog& log) const {
  const int32_t end = log.n_known();
  for (int32_t n = std::min(kLongest, end); n >= kShortest; --n) {
    const auto found = behind_.find(hash_of(log, end - n, end));
    if (found != behind_.end()) return found->second;
  }
  return -1;
}

}  // namespace trireme
