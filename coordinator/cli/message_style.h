#pragma once

#include "coordinator/cli/cluster_options.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/text_codec.h"

namespace trireme {

// How the model writes calls of tools and its reasoning: as --tool-call-parser and
// --reasoning-parser say, else as its chat template shows. Throws EnvironmentError for names that
// are none.
void set_message_style(const ClusterOptions& options, const TextCodec& codec, ModelInfo* model);

}  // namespace trireme
