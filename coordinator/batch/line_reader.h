#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "comm/control/unique_fd.h"

namespace trireme {

// A text file line by line, blank lines left out, in memory of a line and a buffer.
class LineReader {
 public:
  struct Line {
    std::string text;       // without its end; at most max_line_bytes of it
    bool too_long = false;  // there was more
  };

  // Throws EnvironmentError when it cannot be read; so does next().
  LineReader(std::filesystem::path path, size_t max_line_bytes);

  // False at the end of the file.
  bool next(Line* line);
  // Of the file: behind the line that next() gave last.
  uint64_t offset() const { return offset_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  bool read_line(Line* line);
  bool fill();

  const std::filesystem::path path_;
  const size_t max_line_bytes_;
  UniqueFd fd_;
  uint64_t size_bytes_ = 0;
  uint64_t offset_ = 0;
  std::string buffer_;
  size_t begin_ = 0;  // of what is unread in buffer_
};

}  // namespace trireme
