#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace trireme {

// A progress bar on standard error: redrawn in place on a terminal, else a plain line every few
// seconds of work that takes that long. Thread-safe.
class Progress {
 public:
  explicit Progress(std::string title);
  ~Progress();  // ends the bar's line, if one was begun
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t done_bytes, uint64_t total_bytes);
  // The work is done: fills the bar, if one was begun, and ends its line. Later updates do nothing.
  void complete();

 private:
  void draw(uint64_t done, uint64_t total);

  std::mutex mutex_;
  std::string title_;
  bool terminal_;
  bool drawn_ = false;
  bool finished_ = false;
  uint64_t total_ = 0;
  std::chrono::steady_clock::time_point last_;
};

// "1.5 GiB", for people.
std::string human_bytes(uint64_t n);

}  // namespace trireme
