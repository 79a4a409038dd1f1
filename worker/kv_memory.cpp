#include "worker/kv_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <csignal>
#include <functional>
#include <span>

#include "kernels/check.h"
#include "kernels/result.h"
#include "model/checksum.h"

namespace trireme {

struct KvMemory::Header {
  uint64_t magic = 0;
  uint64_t content = 0;
  uint64_t size_bytes = 0;
  int32_t n_blocks = 0;
  std::atomic<uint32_t> crashed = 0;
};

namespace {

constexpr uint64_t kMagic = 0x31564b656d657274;  // "tremeKV1"
constexpr std::array kCrashSignals = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

std::atomic<std::atomic<uint32_t>*> crash_mark = nullptr;
std::array<struct sigaction, kCrashSignals.size()> former_actions;

// Whoever handled the signal before does so after this.
void on_crash(int signal) {
  if (std::atomic<uint32_t>* mark = crash_mark.load()) mark->store(1);
  for (size_t i = 0; i < kCrashSignals.size(); ++i) {
    if (kCrashSignals[i] == signal) sigaction(signal, &former_actions[i], nullptr);
  }
  raise(signal);
}

void watch_crashes(std::atomic<uint32_t>* mark) {
  const bool installed = crash_mark.exchange(mark) != nullptr;
  TRIREME_CHECK(!installed);
  struct sigaction action {};
  action.sa_handler = on_crash;
  for (size_t i = 0; i < kCrashSignals.size(); ++i)
    sigaction(kCrashSignals[i], &action, &former_actions[i]);
}

}  // namespace

KvMemory::KvMemory(const MemoryAddress& address, std::string_view content)
    : content_(checksum64(std::as_bytes(std::span(content)))) {
  if (address.fd < 0) return;
  try {
    fd_ = open_memory(address);
  } catch (const EnvironmentError&) {
    return;  // the pool's memory is then the rank's own, and computed again after a loss
  }
  struct stat status {};
  if (fstat(fd_.get(), &status) != 0 || static_cast<uint64_t>(status.st_size) <= kOffset) return;
  map_header();
  const bool usable = header_->magic == kMagic && header_->content == content_ &&
                      header_->crashed == 0 &&
                      header_->size_bytes + kOffset == static_cast<uint64_t>(status.st_size);
  if (usable) n_kept_blocks_ = header_->n_blocks;
}

KvMemory::~KvMemory() {
  if (header_ == nullptr) return;
  if (crash_mark.load() == &header_->crashed) {
    for (size_t i = 0; i < kCrashSignals.size(); ++i)
      sigaction(kCrashSignals[i], &former_actions[i], nullptr);
    crash_mark = nullptr;
  }
  munmap(header_, sizeof(Header));
}

void KvMemory::map_header() {
  void* p = mmap(nullptr, sizeof(Header), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (p == MAP_FAILED) throw EnvironmentError("cannot map the KV memory: add memory");
  header_ = static_cast<Header*>(p);
}

int KvMemory::prepare(uint64_t size_bytes, int32_t n_blocks, bool keep) {
  if (!fd_) return -1;
  TRIREME_CHECK(!keep || (n_blocks == n_kept_blocks_ && header_->size_bytes == size_bytes));
  if (!keep) {
    const auto n_bytes = static_cast<off_t>(kOffset + size_bytes);
    if (ftruncate(fd_.get(), 0) != 0 || ftruncate(fd_.get(), n_bytes) != 0)
      throw EnvironmentError("cannot size the KV memory: add memory, or lower --kv-gib");
    if (header_ == nullptr) map_header();
    header_->content = content_;
    header_->size_bytes = size_bytes;
    header_->n_blocks = n_blocks;
    header_->magic = kMagic;
  }
  watch_crashes(&header_->crashed);
  return fd_.get();
}

}  // namespace trireme
