#pragma once

#include "comm/control/rank_link.h"
#include "worker/engine.h"

namespace trireme {

// Steps plans and keeps the weights that the coordinator orders, until it asks to end. Meanwhile
// the checksums of the weights that the engine began with are compared; damage ends the process.
void serve_tasks(RankLink& link, Engine& engine);

}  // namespace trireme
