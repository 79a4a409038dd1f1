#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <string_view>

#include "kernels/result.h"
#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

constexpr const char* kUsage =
    "trireme_bench [--threads N] [--kernels avx512|avx2|portable] [--peaks] [--json]\n"
    "\n"
    "Times the kernels against what this machine can do at most, measured first.\n"
    "  --threads N       threads of each kernel (default: all cores)\n"
    "  --kernels NAME    instruction set (default: the best here)\n"
    "  --peaks           only measure the machine; with --json as one JSON object\n"
    "  --benchmark_...   Google Benchmark's own: --benchmark_filter=REGEX, --benchmark_out=FILE, "
    "...\n";

struct Options {
  int n_threads = n_usable_cores();
  std::string kernels;
  bool only_peaks = false;
  bool json = false;
};

// Prints a line for each benchmark as it ends.
class TableReporter final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const benchmark::BenchmarkReporter::Context&) override {
    fmt::print("{:<52} {:>11} {:>9} {:>10} {:>8}\n", "", "us", "GB/s", "GFLOP/s", "of peak");
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) print(run);
    std::fflush(stdout);
  }

 private:
  static double counter(const Run& run, const char* name) {
    const auto found = run.counters.find(name);
    return found == run.counters.end() ? 0.0 : static_cast<double>(found->second);
  }
  static std::string cell(double value, const char* format) {
    return value > 0 ? fmt::format(fmt::runtime(format), value) : "";
  }
  static void print(const Run& run) {
    const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
    fmt::print("{:<52} {:>11.1f} {:>9} {:>10} {:>8}\n", run.run_name.function_name, seconds * 1e6,
               cell(counter(run, "bytes") / seconds / 1e9, "{:.1f}"),
               cell(counter(run, "operations") / seconds / 1e9, "{:.1f}"),
               cell(counter(run, "bound_s") / seconds * 100, "{:.0f} %"));
  }
};

// Takes what is this program's out of the arguments; the rest is Google Benchmark's.
Options parse(int& argc, char** argv) {
  Options options;
  int n_left = 1;
  const auto value = [&](int& i) -> std::string {
    if (i + 1 >= argc) throw EnvironmentError(std::string(argv[i]) + " needs a value");
    return argv[++i];
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--threads") {
      options.n_threads = std::atoi(value(i).c_str());
    } else if (word == "--kernels") {
      options.kernels = value(i);
    } else if (word == "--peaks") {
      options.only_peaks = true;
    } else if (word == "--json") {
      options.json = true;
    } else {
      argv[n_left++] = argv[i];
    }
  }
  argc = n_left;
  return options;
}

int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  Context context;
  context.n_threads = options.n_threads;
  context.kernels = cpu_kernels(options.kernels);
  if (context.kernels == nullptr) {
    throw EnvironmentError("--kernels " + options.kernels + " cannot run here");
  }
  benchmark::Initialize(&argc, argv, [] { std::fputs(kUsage, stdout); });
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  context.peaks = measure_peaks(options.n_threads);
  if (options.only_peaks) {
    fmt::print("{}", options.json ? peaks_json(context.peaks) : peaks_text(context.peaks));
    return 0;
  }
  fmt::print("{}kernels {}, {} threads\n\n", peaks_text(context.peaks), context.kernels->name,
             context.n_threads);
  set_float_mode();
  ThreadPool pool(options.n_threads);
  context.pool = &pool;
  register_linear(context);
  register_attention(context);
  register_elementwise(context);
  if (options.n_threads > 1) register_all_reduce(context);
  TableReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return 0;
}

}  // namespace
}  // namespace trireme::bench

int main(int argc, char** argv) {
  try {
    return trireme::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trireme_bench: %s\n", error.what());
    return 1;
  }
}
