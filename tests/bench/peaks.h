#pragma once

#include <string>

namespace trireme::bench {

// The most that this machine does of one thing, on one thread and on all; 0: it cannot.
struct Peak {
  double one_thread = 0.0;
  double all_threads = 0.0;
  double of(int n_threads) const { return n_threads == 1 ? one_thread : all_threads; }
};

// Bytes per second and operations per second (a multiply and an add are two).
struct Peaks {
  int n_threads = 1;
  double round_trip_s = 0.0;  // between the first two cores; 0 with one thread
  Peak dram;                  // reading
  Peak f32;                   // fused multiply-add
  Peak bf16;                  // dot product of pairs
  Peak int8;                  // dot product of fours
};

// Takes about three seconds and 512 MiB a thread. Threads are pinned to the first cores that this
// process may use. Throws EnvironmentError when there are fewer cores than threads.
Peaks measure_peaks(int n_threads);

// Cores that this process may use.
int n_usable_cores();

std::string peaks_text(const Peaks& peaks);  // lines ended by \n
std::string peaks_json(const Peaks& peaks);  // one object

}  // namespace trireme::bench
