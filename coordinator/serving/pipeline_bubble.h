#pragma once

#include <cstdint>
#include <map>

namespace trireme {

// The part of their time, while there is work, in which the stages of pipelines have none: they
// wait for the stages before them or for a plan. One stream on two stages: a half, since each stage
// waits for the other. Over the last seconds of work of all replicas.
class PipelineBubble {
 public:
  // What one replica's stages have computed so far (added up, since `epoch` began), and for how
  // long it has had a plan in flight.
  struct Totals {
    uint64_t epoch = 0;
    int32_t n_stages = 1;
    uint64_t computed_us = 0;
    uint64_t working_us = 0;
  };
  void observe(int replica, const Totals& totals);

  // 0 to 1; 0 before there was any work.
  double ratio() const;

 private:
  std::map<int, Totals> last_;  // by replica
  // Weighted, the last seconds most: what was computed, and what could have been.
  double computed_us_ = 0.0;
  double possible_us_ = 0.0;
};

}  // namespace trireme
