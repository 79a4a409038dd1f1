#include "coordinator/http/multipart.h"

#include <string>

#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

struct Seen {
  std::string events;
  bool refused = false;
  bool done = false;
  bool operator==(const Seen&) const = default;
};

Seen read(std::string_view boundary, std::string_view body, size_t max_piece) {
  Seen seen;
  const auto take = [&](std::string_view text) {
    seen.events += text;
    return std::optional<Error>();
  };
  MultipartParser parser(
      std::string(boundary),
      {.on_part =
           [&](const FormPart& part) {
             TRIREME_CHECK(part.name.size() <= kMaxPartHeadBytes);
             return take("[" + part.name + "|" + part.filename.value_or("") + "]");
           },
       .on_data = take,
       .on_part_end = [&] { return take("[end]"); }});
  for (size_t i = 0; i < body.size() && !seen.refused; i += max_piece) {
    if (const auto error = parser.feed(body.substr(i, max_piece))) {
      fuzz::check_message(error->message);
      seen.refused = true;
    }
  }
  seen.done = parser.is_done() && !seen.refused;
  return seen;
}

}  // namespace
}  // namespace trireme

// The first line is a Content-Type, the rest a body. A form is the same however its bytes are cut.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  const std::string_view input = fuzz::text_of(data, size);
  const size_t end = input.find('\n');
  if (end == input.npos) return 0;
  const Result<std::string> boundary = multipart_boundary(input.substr(0, end));
  if (!boundary) {
    fuzz::check_message(boundary.error().message);
    return 0;
  }
  const std::string_view body = input.substr(end + 1);
  const Seen whole = read(*boundary, body, body.size() + 1);
  TRIREME_CHECK(whole == read(*boundary, body, 1));
  TRIREME_CHECK(whole == read(*boundary, body, body.size() / 3 + 1));
  return 0;
}
