#include "coordinator/cli/progress.h"
#include "coordinator/cli/say.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace trireme {
namespace {

constexpr std::chrono::milliseconds kRedrawEvery{50};
constexpr std::chrono::seconds kPlainEvery{2};
constexpr int kBarWidth = 32;

}  // namespace

std::string human_bytes(uint64_t n) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  auto value = static_cast<double>(n);
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

Progress::Progress(std::string title)
    : title_(std::move(title)),
      terminal_(isatty(STDERR_FILENO) == 1),
      last_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (!finished_ && drawn_ && terminal_) say(stderr, "\n");
}

void Progress::update(uint64_t done_bytes, uint64_t total_bytes) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(kRedrawEvery) : kPlainEvery;
  if (finished_ || total_bytes == 0 || now - last_ < pause) return;
  last_ = now;
  total_ = total_bytes;
  draw(std::min(done_bytes, total_bytes), total_bytes);
}

void Progress::draw(uint64_t done, uint64_t total) {
  const double part = static_cast<double>(done) / static_cast<double>(total);
  if (terminal_) {
    const int full = static_cast<int>(part * kBarWidth);
    say(stderr, "\r{} [{:=<{}}{: <{}}] {:3.0f} % of {} ", title_, "", full, "", kBarWidth - full,
        part * 100, human_bytes(total));
  } else {
    say(stderr, "{}: {:.0f} % of {}\n", title_, part * 100, human_bytes(total));
  }
  drawn_ = true;
}

void Progress::complete() {
  const std::lock_guard lock(mutex_);
  if (!finished_ && drawn_) {
    draw(total_, total_);
    if (terminal_) say(stderr, "\n");
  }
  finished_ = true;
}

}  // namespace trireme
