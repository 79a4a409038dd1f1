#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

// How the answer to a request for an inference (/v2/models/{model}/infer) is told: in tensors.
struct TensorReply {
  enum class Output : uint8_t { kText, kIds, kLengths, kFinish };
  struct Wanted {
    Output output = Output::kText;
    bool binary = false;  // behind the JSON, not in it
  };
  std::string id;               // the client's; "": none
  std::vector<Wanted> outputs;  // in the answer's order; empty: the request was another one
  bool column = false;          // [n, 1] in place of [n], as the texts or lengths came
  bool one_row = false;         // ids came as [n_tokens]: a single choice's are told so too
  bool int64_ids = false;       // ids came as INT64
};

}  // namespace trireme
