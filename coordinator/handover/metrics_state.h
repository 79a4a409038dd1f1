#pragma once

#include <map>
#include <string>
#include <vector>

namespace trireme {

// What one series of a counter or a histogram has come to.
struct MetricSeries {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;             // a counter's; of a histogram the sum of what was observed
  std::vector<double> buckets;  // a histogram's, each without those below it
};

// All that only grows. Gauges are read anew.
struct MetricsState {
  std::vector<MetricSeries> series;
  std::map<std::string, double> followed;  // totals of others, as last seen
};

}  // namespace trireme
