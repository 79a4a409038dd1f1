#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace trireme {

// A whole file mapped read-only and shared.
class MappedFile {
 public:
  // Throws EnvironmentError. An empty file is mapped as no bytes.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Reads one byte of every page of [data, data + size) of a mapping, so that later reads do not wait
// for the disk.
void touch_pages(const void* data, uint64_t size);

}  // namespace trireme
