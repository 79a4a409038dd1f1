#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace trireme {

struct ClassifierHead;

constexpr size_t kMaxPoolingInputs = 2048;        // of one request
constexpr int64_t kMaxPoolingTokens = 1 << 19;    // of all its inputs
constexpr int64_t kMaxPoolingNumbers = 1 << 22;   // in its vectors,
constexpr int64_t kMaxNumbersUnderWay = 1 << 25;  // and in those of all requests that are answered

// What a request for numbers asks for, checked: every input fits the context.
struct PoolingCall {
  std::vector<std::vector<int32_t>> inputs;  // token ids
  int64_t n_prompt_tokens = 0;               // of all of them
  int32_t dimensions = 0;                    // of each vector
  bool normalize = true;
  bool base64 = false;
  // Scores: the first n_queries inputs are compared with the others, one with all or each with one.
  size_t n_queries = 0;
  size_t top_n = 0;                    // of the documents that were ranked
  std::vector<std::string> documents;  // told with their ranks; empty: they are not
  // Classes: the vectors are their probabilities.
  std::shared_ptr<const ClassifierHead> classifier;
  int32_t priority = 0;
  std::string tenant;      // GenerateRequest::tenant
  std::string cache_salt;  // GenerateRequest::cache_salt

  int64_t n_numbers() const { return static_cast<int64_t>(inputs.size()) * dimensions; }
};

}  // namespace trireme
