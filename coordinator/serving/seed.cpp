#include "coordinator/serving/seed.h"

#include <random>

namespace trireme {

uint64_t draw_seed() {
  std::random_device device;
  const uint64_t high = device();
  return (high << 32) | device();
}

}  // namespace trireme
