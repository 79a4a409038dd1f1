// Preloaded into ranks (faults.py, poison_ranks): a rank that is sent certain bytes crashes by a fault
// of its own, as one with a bug would that only this request meets.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

ssize_t recv(int fd, void* room, size_t size, int flags) {
  static ssize_t (*real)(int, void*, size_t, int);
  if (real == NULL) real = (ssize_t(*)(int, void*, size_t, int))dlsym(RTLD_NEXT, "recv");
  const ssize_t n_bytes = real(fd, room, size, flags);
  const char* poison = getenv("TRIREME_TEST_POISON");
  if (n_bytes > 0 && poison != NULL && memmem(room, (size_t)n_bytes, poison, strlen(poison))) {
    raise(SIGSEGV);
  }
  return n_bytes;
}
