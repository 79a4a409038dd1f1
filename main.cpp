#include <cstring>

#include "coordinator/cli/command_line.h"
#include "worker/worker_main.h"

// One binary: `trireme worker ...` is a rank, everything else is the coordinator's command line.
int main(int argc, char** argv) {
  if (argc >= 2 && std::strcmp(argv[1], "worker") == 0) return trireme::worker_main(argc, argv);
  return trireme::command_line_main(argc, argv);
}
