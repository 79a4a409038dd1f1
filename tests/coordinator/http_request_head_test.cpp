#include "coordinator/http/http_request_head.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace trireme {
namespace {

TEST(HeadLines, AreTheSameHoweverTheyAreCut) {
  constexpr std::string_view kGood[] = {
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n\n body\r and more\n\r\n\r\n",
      "GET / HTTP/1.1\r\nX: a b\tc\r\nY:\r\n\r\n",
      "GET / HTTP/1.1\r\nHo",
      "\r\n\n",
  };
  constexpr std::string_view kOdd[] = {
      "GET / HTTP/1.1\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
      "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
      "GET / HTTP/1.1\r\nX: a\r\n\tb\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nX: a\r\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\n\rb",
  };
  const auto is_good = [](std::string_view head, size_t first, size_t second) {
    HeadLines lines;
    return lines.take(head.substr(0, first)) && lines.take(head.substr(first, second - first)) &&
           lines.take(head.substr(second));
  };
  const auto expect = [&](std::string_view head, bool good) {
    for (size_t first = 0; first <= head.size(); ++first) {
      for (size_t second = first; second <= head.size(); ++second)
        EXPECT_EQ(is_good(head, first, second), good) << head << first << " " << second;
    }
  };
  for (const std::string_view head : kGood) expect(head, true);
  for (const std::string_view head : kOdd) expect(head, false);
}

}  // namespace
}  // namespace trireme
