// fuzz_TARGET CORPUS [SECONDS [SEED]]: runs a target without libFuzzer. Every file of the folder
// (or the one file) CORPUS, then random changes of them for SECONDS. An input that breaks it is
// left in ./crash-fuzz_TARGET.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include <fmt/core.h>

#include "tests/fuzz/fuzz_input.h"

// The sanitizers' reports end in the signal that leaves the input behind.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }

namespace trireme::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kMaxInputSeconds = 20;
constexpr size_t kMaxInputBytes = 1U << 16;

// Read by the signal handler.
std::string current;     // NOLINT
std::string crash_file;  // NOLINT

void on_signal(int signal) {
  const int fd = ::open(crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const ssize_t n = ::write(fd, current.data(), current.size());
  const char* what = signal == SIGALRM ? "takes too long" : "breaks the target";
  for (const char* text : {"the input in ", crash_file.c_str(), " ", what, "\n"}) {
    if (n >= 0) (void)!::write(STDERR_FILENO, text, std::strlen(text));
  }
  std::signal(signal, SIG_DFL);
  ::raise(signal);
}

void catch_signals() {
  static std::array<char, 1U << 16> stack;  // one that has run over leaves no room
  const stack_t alternate = {.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
  TRIREME_CHECK(::sigaltstack(&alternate, nullptr) == 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  std::vector<int> signals = {SIGABRT, SIGALRM};
#ifndef __SANITIZE_ADDRESS__
  signals.insert(signals.end(), {SIGSEGV, SIGBUS, SIGILL, SIGFPE});
#endif
  for (const int signal : signals) TRIREME_CHECK(::sigaction(signal, &action, nullptr) == 0);
}

void run(const std::string& input) {
  current = input;
  ::alarm(kMaxInputSeconds);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  ::alarm(0);
}

std::vector<std::string> read_corpus(const fs::path& path) {
  std::vector<fs::path> files = {path};
  if (fs::is_directory(path)) files = {fs::directory_iterator(path), fs::directory_iterator()};
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const fs::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  TRIREME_CHECK_MSG(!corpus.empty(), "no cases there");
  return corpus;
}

// One change of a few bytes, or of a piece that another case, or this one, has.
void change(std::string& input, const std::string& other, std::mt19937_64& random) {
  const auto below = [&random](size_t n) { return n == 0 ? 0 : random() % n; };
  const size_t at = below(input.size() + 1);
  const size_t n = std::min(input.size() - at, 1 + below(below(2) == 0 ? 4 : 64));
  switch (below(7)) {
    case 0: input.erase(at, n); break;
    case 1: input.insert(at, input.substr(below(input.size() + 1), n)); break;
    case 2: input.insert(at, other.substr(below(other.size() + 1), 1 + below(64))); break;
    case 3: input.insert(at, 1, static_cast<char>(random())); break;
    case 4: input.insert(at, std::to_string(static_cast<int64_t>(random() >> below(64)))); break;
    case 5:
      if (n > 0) input[at] = static_cast<char>(random());
      break;
    default:
      if (n > 0) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
      break;
  }
}

uint64_t run_changes(const std::vector<std::string>& corpus, double seconds, uint64_t seed) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  std::mt19937_64 random(seed);
  uint64_t n_runs = 0;
  for (; Clock::now() < end; ++n_runs) {
    std::string input = corpus[random() % corpus.size()];
    for (uint64_t left = 1 + random() % 8; left > 0; --left) {
      change(input, corpus[random() % corpus.size()], random);
    }
    input.resize(std::min(input.size(), kMaxInputBytes));
    run(input);
  }
  return n_runs;
}

int run_target(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: {} CORPUS [SECONDS [SEED]]\n", argv[0]);
    return 2;
  }
  const std::string target = fs::path(argv[0]).filename().string();
  crash_file = "crash-" + target;
  catch_signals();
  const std::vector<std::string> corpus = read_corpus(argv[1]);
  for (const std::string& input : corpus) run(input);
  const double seconds = argc > 2 ? std::strtod(argv[2], nullptr) : 0.0;
  const uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : std::random_device{}();
  fmt::print("{}: {} cases; changes of them for {} s from seed {}\n", target, corpus.size(),
             seconds, seed);
  std::fflush(stdout);
  fmt::print("{}: {} runs\n", target, run_changes(corpus, seconds, seed));
  return 0;
}

}  // namespace
}  // namespace trireme::fuzz

int main(int argc, char** argv) { return trireme::fuzz::run_target(argc, argv); }
