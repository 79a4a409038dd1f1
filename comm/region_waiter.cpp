#include "comm/region_waiter.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/communicator.h"

namespace trireme::detail {
namespace {

double seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void RegionWaiter::throw_if_aborted(const char* op) const {
  if (mapping_.aborted()) throw CommError(fmt::format("{} ({}): the group was aborted", op, kind_));
}

void RegionWaiter::sleep_on_doorbell(uint32_t bell, Clock::time_point start) {
  const auto left =
      std::chrono::duration_cast<std::chrono::nanoseconds>(start + deadline_ - Clock::now());
  if (left.count() <= 0) return;
  const timespec timeout{.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000),
                         .tv_nsec = static_cast<long>(left.count() % 1'000'000'000)};
  // Not FUTEX_PRIVATE: the peers may be other processes.
  syscall(SYS_futex, &self_.doorbell, FUTEX_WAIT, bell, &timeout, nullptr, 0);
}

void RegionWaiter::check_still_worth_waiting(const char* op, int peer, Clock::time_point start) {
  const auto waited = Clock::now() - start;
  if (mapping_.aborted()) {
    throw CommError(fmt::format("{} ({}): the group was aborted; rank {} was waited for {:.3f} s",
                                op, kind_, peer, seconds(waited)));
  }
  if (peer == kNobody || waited < deadline_) return;
  mapping_.abort();  // the others would only wait in vain for this rank
  throw CommError(fmt::format("{} ({}): nothing from rank {} for {:.3f} s; it is gone or stuck", op,
                              kind_, peer, seconds(waited)));
}

}  // namespace trireme::detail
