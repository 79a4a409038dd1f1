#include "comm/control/heartbeat_datagram.h"

#include <cstring>

#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

// What is taken for a datagram is in range, and sealed again is taken for the same.
void check(const SecretKey& key, std::span<const char> datagram) {
  const auto heartbeat = open_heartbeat(key, datagram);
  const auto answer = open_answer(key, datagram);
  TRIREME_CHECK(!heartbeat || !answer);
  if (heartbeat) {
    TRIREME_CHECK(heartbeat->world_rank >= 0 && heartbeat->unheard_ms >= -1);
    TRIREME_CHECK(heartbeat->state.activity <= RankActivity::kWaiting);
    const std::string again = seal(key, *heartbeat);
    TRIREME_CHECK(seal(key, open_heartbeat(key, again).value()) == again);
  }
  if (answer) {
    TRIREME_CHECK(answer->world_rank >= 0);
    const std::string again = seal(key, *answer);
    TRIREME_CHECK(seal(key, open_answer(key, again).value()) == again);
  }
}

}  // namespace
}  // namespace trireme

// The input is a datagram; and its message alone, under a MAC that is right, since no change finds
// one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static const SecretKey key = heartbeat_key("the fuzzer's own", "s");
  const std::string_view datagram = fuzz::text_of(data, size);
  check(key, datagram);
  if (size >= kMacBytes) check(key, seal_message(key, datagram.substr(kMacBytes)));
  return 0;
}
