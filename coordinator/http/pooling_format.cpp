// The bodies of answers in numbers. Vectors are written as text directly: as JSON values they would
// take several times their memory, and come out in more digits than they have.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "coordinator/http/embedding.h"
#include "coordinator/http/pooling_kind.h"
#include "model/classifier_head.h"

namespace trireme {
namespace {

OrderedJson usage_of(const PoolingCall& call) {
  OrderedJson usage;
  usage["prompt_tokens"] = call.n_prompt_tokens;
  usage["total_tokens"] = call.n_prompt_tokens;
  return usage;
}

OrderedJson begin_list(const ReplyEnvelope& envelope) { return envelope.begin("list"); }

// {"id", ..., "data": [...], "usage"}: `write` appends the object of input i.
template <typename Write>
std::string write_list(const PoolingCall& call, const ReplyEnvelope& envelope, size_t n_inputs,
                       const Write& write) {
  std::string out = dump_json(begin_list(envelope));
  out.back() = ',';
  out += "\"data\":[";
  for (size_t i = 0; i < n_inputs; ++i) {
    if (i > 0) out += ',';
    write(i, &out);
  }
  out += "],\"usage\":" + dump_json(usage_of(call)) + "}";
  return out;
}

std::string format_vectors(const PoolingCall& call, const ReplyEnvelope& envelope,
                           const Vectors& vectors, const char* object, const char* field) {
  return write_list(call, envelope, vectors.size(), [&](size_t i, std::string* out) {
    *out += fmt::format(R"({{"index":{},"object":"{}","{}":)", i, object, field);
    if (call.base64) {
      *out += '"' + base64_of(vectors[i]) + '"';
    } else {
      append_json_list(vectors[i], out);
    }
    *out += '}';
  });
}

// Of each input behind the queries.
std::vector<double> compare(const PoolingCall& call, const Vectors& vectors) {
  std::vector<double> scores;
  for (size_t i = call.n_queries; i < vectors.size(); ++i) {
    const size_t query = call.n_queries == 1 ? 0 : i - call.n_queries;
    scores.push_back(cosine_similarity(vectors[query], vectors[i]));
  }
  return scores;
}

}  // namespace

std::string format_embeddings(const PoolingCall& call, const ReplyEnvelope& envelope,
                              const Vectors& vectors) {
  return format_vectors(call, envelope, vectors, "embedding", "embedding");
}

std::string format_pooling(const PoolingCall& call, const ReplyEnvelope& envelope,
                           const Vectors& vectors) {
  return format_vectors(call, envelope, vectors, "pooling", "data");
}

std::string format_classes(const PoolingCall& call, const ReplyEnvelope& envelope,
                           const Vectors& vectors) {
  const std::vector<std::string>& labels = call.classifier->labels;
  return write_list(call, envelope, vectors.size(), [&](size_t i, std::string* out) {
    const std::vector<float>& probs = vectors[i];
    const auto best =
        static_cast<size_t>(std::max_element(probs.begin(), probs.end()) - probs.begin());
    *out += fmt::format(R"({{"index":{},"label":{},"probs":)", i, dump_json(labels[best]));
    append_json_list(probs, out);
    *out += fmt::format(R"(,"num_classes":{}}})", labels.size());
  });
}

std::string format_scores(const PoolingCall& call, const ReplyEnvelope& envelope,
                          const Vectors& vectors) {
  OrderedJson body = begin_list(envelope);
  body["data"] = OrderedJson::array();
  for (const double score : compare(call, vectors)) {
    OrderedJson item;
    item["index"] = body["data"].size();
    item["object"] = "score";
    item["score"] = score;
    body["data"].push_back(std::move(item));
  }
  body["usage"] = usage_of(call);
  return dump_json(body);
}

std::string format_ranks(const PoolingCall& call, const ReplyEnvelope& envelope,
                         const Vectors& vectors) {
  const std::vector<double> scores = compare(call, vectors);
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(call.top_n);
  OrderedJson body;
  body["id"] = envelope.id;
  body["model"] = envelope.model;
  body["usage"] = usage_of(call);
  body["results"] = OrderedJson::array();
  for (const size_t i : order) {
    OrderedJson item;
    item["index"] = i;
    if (!call.documents.empty()) item["document"] = {{"text", call.documents[i]}};
    item["relevance_score"] = scores[i];
    body["results"].push_back(std::move(item));
  }
  return dump_json(body);
}

}  // namespace trireme
