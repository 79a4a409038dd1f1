#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/http/api_error.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/pooling_call.h"
#include "coordinator/http/reply_parts.h"
#include "coordinator/http/text_codec.h"

// Private to coordinator/http: includes the JSON library.

namespace trireme {

using ParsedPooling = std::variant<PoolingCall, ApiError>;
using Vectors = std::vector<std::vector<float>>;  // [n_inputs][dimensions]

ParsedPooling parse_embeddings_request(const OrderedJson& body, const ModelInfo& model,
                                       const TextCodec& codec);
ParsedPooling parse_pooling_request(const OrderedJson& body, const ModelInfo& model,
                                    const TextCodec& codec);
ParsedPooling parse_score_request(const OrderedJson& body, const ModelInfo& model,
                                  const TextCodec& codec);
ParsedPooling parse_rerank_request(const OrderedJson& body, const ModelInfo& model,
                                   const TextCodec& codec);
ParsedPooling parse_classify_request(const OrderedJson& body, const ModelInfo& model,
                                     const TextCodec& codec);

// Bodies of answers.
std::string format_embeddings(const PoolingCall& call, const ReplyEnvelope& envelope,
                              const Vectors& vectors);
std::string format_pooling(const PoolingCall& call, const ReplyEnvelope& envelope,
                           const Vectors& vectors);
std::string format_classes(const PoolingCall& call, const ReplyEnvelope& envelope,
                           const Vectors& vectors);
std::string format_scores(const PoolingCall& call, const ReplyEnvelope& envelope,
                          const Vectors& vectors);
std::string format_ranks(const PoolingCall& call, const ReplyEnvelope& envelope,
                         const Vectors& vectors);

// What differs between the endpoints that answer with numbers.
struct PoolingKind {
  const char* path;
  const char* id_prefix;
  ParsedPooling (*parse)(const OrderedJson&, const ModelInfo&, const TextCodec&);
  std::string (*format)(const PoolingCall&, const ReplyEnvelope&, const Vectors&);
};

inline constexpr std::array<PoolingKind, 8> kPoolingKinds = {{
    {"/v1/embeddings", "embd-", parse_embeddings_request, format_embeddings},
    {"/pooling", "pool-", parse_pooling_request, format_pooling},
    {"/score", "score-", parse_score_request, format_scores},
    {"/v1/score", "score-", parse_score_request, format_scores},
    {"/rerank", "rerank-", parse_rerank_request, format_ranks},
    {"/v1/rerank", "rerank-", parse_rerank_request, format_ranks},
    {"/v2/rerank", "rerank-", parse_rerank_request, format_ranks},
    {"/classify", "classify-", parse_classify_request, format_classes},
}};

}  // namespace trireme
