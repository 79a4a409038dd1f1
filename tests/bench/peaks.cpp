#include "tests/bench/peaks.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/result.h"
#include "tests/bench/arithmetic.h"

namespace trireme::bench {
namespace {

constexpr size_t kReadBytes = size_t{512} << 20;  // of each thread; far more than any cache
constexpr int kTries = 3;                         // the best one counts
constexpr int64_t kRounds = 10'000'000;
constexpr int kRoundTrips = 50'000;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

// Seconds from the moment when all threads begin to the end of the last.
double time_threads(int n_threads, const std::function<void(int)>& work) {
  const std::vector<int> cores = usable_cores();
  std::atomic<int> n_ready{0};
  std::vector<double> begin(static_cast<size_t>(n_threads));
  std::vector<double> end(begin.size());
  std::vector<std::thread> threads;
  for (int i = 0; i < n_threads; ++i) {
    threads.emplace_back([&, i] {
      const auto self = static_cast<size_t>(i);
      pin_to(cores[self]);
      ++n_ready;
      while (n_ready < n_threads) {
      }
      begin[self] = now_s();
      work(i);
      end[self] = now_s();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
}

// Reads through memory as fast as loads can be issued.
void read_all(const std::byte* data, size_t n_bytes) {
  using Words = uint64_t __attribute__((vector_size(64)));
  const auto* words = reinterpret_cast<const Words*>(data);
  Words a{};
  Words b{};
  for (size_t i = 0; i + 1 < n_bytes / sizeof(Words); i += 2) {
    a ^= words[i];
    b ^= words[i + 1];
  }
  a ^= b;
  asm volatile("" : : "m"(a));
}

double best_seconds(int n_threads, const std::function<void(int)>& work) {
  double best_s = time_threads(n_threads, work);
  for (int i = 1; i < kTries; ++i) best_s = std::min(best_s, time_threads(n_threads, work));
  return best_s;
}

Peak peak(int n_threads, double amount_per_thread, const std::function<void(int)>& work) {
  return {amount_per_thread / best_seconds(1, work),
          amount_per_thread * n_threads / best_seconds(n_threads, work)};
}

Peak measure_dram(int n_threads) {
  const Buffer memory(kReadBytes * static_cast<size_t>(n_threads), {}, "the memory to read");
  auto* data = static_cast<std::byte*>(memory.data());
  time_threads(n_threads, [&](int i) {
    std::memset(data + kReadBytes * static_cast<size_t>(i), i + 1, kReadBytes);
  });
  return peak(n_threads, static_cast<double>(kReadBytes),
              [&](int i) { read_all(data + kReadBytes * static_cast<size_t>(i), kReadBytes); });
}

Peak measure_loop(int n_threads, Arithmetic::Loop loop, double operations_per_round) {
  if (loop == nullptr) return {};
  return peak(n_threads, operations_per_round * kRounds, [&](int) { loop(kRounds); });
}

double measure_round_trip() {
  alignas(64) std::atomic<int> ball{0};
  const double seconds = best_seconds(2, [&](int side) {
    for (int i = 0; i < kRoundTrips; ++i) {
      while (ball.load(std::memory_order_acquire) != side) {
      }
      ball.store(1 - side, std::memory_order_release);
    }
  });
  return seconds / kRoundTrips;
}

Arithmetic native_arithmetic() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
    return avx512_arithmetic();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_arithmetic();
#endif
  return {};
}

// Name, factor to the unit that people read, unit.
struct Row {
  const char* name;
  const char* key;
  Peak Peaks::*peak;
  const char* unit;
};
constexpr Row kRows[] = {{"DRAM read", "dram_bytes_s", &Peaks::dram, "GB/s"},
                         {"float32 multiply-add", "f32_op_s", &Peaks::f32, "GFLOP/s"},
                         {"bfloat16 dot product", "bf16_op_s", &Peaks::bf16, "GFLOP/s"},
                         {"int8 dot product", "int8_op_s", &Peaks::int8, "GOP/s"}};

}  // namespace

int n_usable_cores() { return static_cast<int>(usable_cores().size()); }

Peaks measure_peaks(int n_threads) {
  if (n_threads < 1 || n_threads > n_usable_cores()) {
    throw EnvironmentError(
        fmt::format("--threads {} is out of range: this process may use {} cores", n_threads,
                    n_usable_cores()));
  }
  const Arithmetic arithmetic = native_arithmetic();
  Peaks peaks;
  peaks.n_threads = n_threads;
  if (n_threads > 1) peaks.round_trip_s = measure_round_trip();
  peaks.dram = measure_dram(n_threads);
  peaks.f32 = measure_loop(n_threads, arithmetic.f32, arithmetic.f32_operations);
  peaks.bf16 = measure_loop(n_threads, arithmetic.bf16, arithmetic.bf16_operations);
  peaks.int8 = measure_loop(n_threads, arithmetic.int8, arithmetic.int8_operations);
  return peaks;
}

std::string peaks_text(const Peaks& peaks) {
  std::string out;
  for (const Row& row : kRows) {
    const Peak& peak = peaks.*row.peak;
    if (peak.one_thread == 0.0) continue;
    out += fmt::format("{:<22} 1 thread {:>7.1f}   {} threads {:>7.1f} {}\n", row.name,
                       peak.one_thread / 1e9, peaks.n_threads, peak.all_threads / 1e9, row.unit);
  }
  if (peaks.round_trip_s > 0) {
    out += fmt::format("{:<22} {:.0f} ns\n", "core to core and back", peaks.round_trip_s * 1e9);
  }
  return out;
}

std::string peaks_json(const Peaks& peaks) {
  nlohmann::ordered_json json = {{"threads", peaks.n_threads},
                                 {"round_trip_s", peaks.round_trip_s}};
  for (const Row& row : kRows) {
    const Peak& peak = peaks.*row.peak;
    json[row.key] = {{"one_thread", peak.one_thread}, {"all_threads", peak.all_threads}};
  }
  return json.dump() + "\n";
}

}  // namespace trireme::bench
