#pragma once

namespace trireme {

// Every command but `worker`: run, serve, logits, inspect, diff. Returns the exit status.
int command_line_main(int argc, char** argv);

}  // namespace trireme
