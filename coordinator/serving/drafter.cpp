#include "coordinator/serving/drafter.h"

#include <algorithm>

#include "kernels/check.h"

namespace trireme {

void GuessPace::learn(int32_t n_guessed, int32_t n_right) {
  TRIREME_CHECK(n_guessed > 0 && n_right >= 0 && n_right <= n_guessed);
  if (n_right == n_guessed) {
    n_ = std::min(most_, 2 * n_);
  } else {
    n_ = std::clamp(n_right + 1, 1, most_);
  }
}

}  // namespace trireme
