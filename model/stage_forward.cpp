#include "model/stage_forward.h"

#include <algorithm>

#include "kernels/result.h"

namespace trireme {
namespace {

DType gemm_dtype(WeightFormat format) {
  return format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

// A zeroed [rows, columns] GEMM input: padding between the columns and the stride stays zero.
struct GemmBuffer {
  Buffer memory;
  DType dtype;
  int64_t columns;

  GemmBuffer(int64_t rows, int64_t n, DType type, Device device, const char* what)
      : memory(bytes(rows, n, type), device, what), dtype(type), columns(n) {}

  static size_t bytes(int64_t rows, int64_t n, DType type) {
    return static_cast<size_t>(rows * gemm_row_stride(n)) * dtype_size(type);
  }
  Tensor rows(int64_t n) const {
    Tensor t = make_tensor(memory.data(), dtype, {n, columns});
    t.row_stride = gemm_row_stride(columns);
    return t;
  }
};

struct FloatBuffer {
  Buffer memory;
  int64_t columns;

  FloatBuffer(int64_t rows, int64_t n, Device device, const char* what)
      : memory(static_cast<size_t>(rows * n) * sizeof(float), device, what), columns(n) {}

  Tensor rows(int64_t n) const { return make_tensor(memory.data(), DType::kF32, {n, columns}); }
};

Tensor as_heads(Tensor x, int64_t head_dim) {
  return make_tensor(x.data, x.dtype, {x.dim(0), div_exact(x.dim(1), head_dim), head_dim},
                     x.device);
}

Tensor as_head_rows(Tensor x, int64_t head_dim) {
  return make_tensor(x.data, x.dtype, {x.dim(0) * div_exact(x.dim(1), head_dim), head_dim},
                     x.device);
}

constexpr const char* kWhat = "the step's workspace";

int32_t max_vocab_columns(const ModelConfig& config, Layout layout) {
  const int32_t n_chunks = model_cuts(config).n_vocab_chunks;
  return std::min(config.vocab_size, div_ceil(n_chunks, layout.tp) * kVocabChunk);
}

int64_t max_nodes(const ShardPlan& shard) {
  return std::max(shard.attention_tree.n_nodes_of(shard.tp_rank),
                  shard.mlp_tree.n_nodes_of(shard.tp_rank));
}

// What the whole group's embedding needs to be added up: one leaf per rank, all but one of them
// zero.
TreePlan one_leaf_per_rank(int n_ranks) { return make_tree_plan(n_ranks, n_ranks); }

}  // namespace

struct StageForward::Workspace {
  FloatBuffer residual;      // [max_tokens, hidden]
  GemmBuffer normed;         // [max_tokens, hidden]
  FloatBuffer q, k, v;       // [max_tokens, heads * head_dim]
  FloatBuffer cos, sin;      // [max_tokens, head_dim / 2]
  GemmBuffer attended;       // [max_tokens, n_heads * head_dim]
  Buffer attention_scratch;  // attention_scratch_bytes()
  FloatBuffer gate, up;      // [max_tokens, mlp_columns]
  GemmBuffer activation;     // [max_tokens, mlp_columns]
  FloatBuffer partials;      // [max_nodes * max_tokens, hidden]
  FloatBuffer reduced;       // [max_tokens, hidden]
  FloatBuffer head_rows;     // [max_logit_rows, hidden]
  GemmBuffer head_normed;    // [max_logit_rows, hidden]
  FloatBuffer local_logits;  // [max_logit_rows, vocab columns of the widest rank]
  FloatBuffer gathered;      // [tp * max_logit_rows, the same], tp_rank 0 keeps it
  FloatBuffer logits;        // [max_logit_rows, vocab_size], tp_rank 0

  Workspace(const ModelConfig& c, const ShardPlan& s, DType dtype, Device d, int64_t tokens,
            int64_t logit_rows)
      : residual(tokens, c.hidden_size, d, kWhat),
        normed(tokens, c.hidden_size, dtype, d, kWhat),
        q(tokens, int64_t{s.heads.size()} * c.head_dim, d, kWhat),
        k(tokens, int64_t{s.kv_heads.size()} * c.head_dim, d, kWhat),
        v(tokens, int64_t{s.kv_heads.size()} * c.head_dim, d, kWhat),
        cos(tokens, c.head_dim / 2, d, kWhat),
        sin(tokens, c.head_dim / 2, d, kWhat),
        attended(tokens, int64_t{s.heads.size()} * c.head_dim, dtype, d, kWhat),
        attention_scratch(attention_scratch_bytes(static_cast<int32_t>(tokens), c.head_dim), d,
                          kWhat),
        gate(tokens, s.mlp_columns.size(), d, kWhat),
        up(tokens, s.mlp_columns.size(), d, kWhat),
        activation(tokens, s.mlp_columns.size(), dtype, d, kWhat),
        partials(max_nodes(s) * tokens, c.hidden_size, d, kWhat),
        reduced(tokens, c.hidden_size, d, kWhat),
        head_rows(logit_rows, c.hidden_size, d, kWhat),
        head_normed(logit_rows, c.hidden_size, dtype, d, kWhat),
        local_logits(logit_rows, max_vocab_columns(c, s.layout), d, kWhat),
        gathered(s.layout.tp * logit_rows, max_vocab_columns(c, s.layout), d, kWhat),
        logits(logit_rows, c.vocab_size, d, kWhat) {}

  uint64_t size_bytes() const {
    uint64_t n = normed.memory.size_bytes() + attended.memory.size_bytes() +
                 activation.memory.size_bytes() + head_normed.memory.size_bytes() +
                 attention_scratch.size_bytes();
    for (const FloatBuffer* b : {&residual, &q, &k, &v, &cos, &sin, &gate, &up, &partials, &reduced,
                                 &head_rows, &local_logits, &gathered, &logits}) {
      n += b->memory.size_bytes();
    }
    return n;
  }
};

StageForward::StageForward(const StageParts& parts)
    : parts_(parts),
      rope_(rope_frequencies(*parts.config, parts.context_length)),
      embed_tree_(one_leaf_per_rank(parts.shard->layout.tp)),
      workspace_(std::make_shared<Workspace>(*parts.config, *parts.shard, gemm_dtype(parts.format),
                                             parts.stream.device, parts.max_tokens,
                                             parts.max_logit_rows)) {
  TRIREME_CHECK(parts.max_tokens > 0 && parts.max_logit_rows > 0);
  TRIREME_CHECK(static_cast<int32_t>(parts.weights->layers.size()) == parts.shard->layers.size());
}

uint64_t StageForward::workspace_bytes(const ModelConfig& config, const ShardPlan& shard,
                                       WeightFormat format, int32_t max_tokens,
                                       int32_t max_logit_rows) {
  // Mapped but never touched, so it costs address space only.
  return Workspace(config, shard, gemm_dtype(format), {}, max_tokens, max_logit_rows).size_bytes();
}

void StageForward::trace_heads(TraceSink& trace, int32_t layer, TraceOp op, Tensor x,
                               IndexRange heads) const {
  const int64_t head_dim = parts_.config->head_dim;
  for (int32_t h = heads.begin; h < heads.end; ++h) {
    trace.add(layer, op, h, x, (h - heads.begin) * head_dim, (h - heads.begin + 1) * head_dim);
  }
}

void StageForward::embed(const StepTokens& step) {
  Workspace& w = *workspace_;
  const Tensor ids = make_tensor(const_cast<int32_t*>(step.input_ids), DType::kI32, {n_tokens_});
  const bool alone = parts_.tp->size() == 1;
  const Tensor out = alone ? w.residual.rows(n_tokens_) : w.partials.rows(n_tokens_);
  parts_.kernels->embed(parts_.stream, out, ids, parts_.weights->embedding,
                        parts_.shard->vocab.begin);
  if (!alone) {
    const Tensor partial =
        make_tensor(out.data, DType::kF32, {1, n_tokens_, w.residual.columns}, out.device);
    parts_.tp->all_reduce_tree(parts_.stream, embed_tree_, partial, w.residual.rows(n_tokens_));
  }
}

void StageForward::run(const StepTokens& step, TraceSink* trace) {
  TRIREME_CHECK(step.n_tokens > 0 && step.n_tokens <= parts_.max_tokens);
  Workspace& w = *workspace_;
  const ShardPlan& shard = *parts_.shard;
  n_tokens_ = step.n_tokens;
  const Tensor residual = w.residual.rows(n_tokens_);
  if (shard.is_first_stage()) {
    embed(step);
    if (trace != nullptr) trace->add(-1, TraceOp::kEmbedding, residual);
  } else {
    parts_.pp->recv(parts_.stream, residual, shard.pp_rank - 1);
  }
  const Tensor positions =
      make_tensor(const_cast<int32_t*>(step.positions), DType::kI32, {n_tokens_});
  parts_.kernels->rope_table(parts_.stream, w.cos.rows(n_tokens_), w.sin.rows(n_tokens_), positions,
                             rope_.inv_freq.data(), rope_.scale);
  for (int32_t i = 0; i < shard.layers.size(); ++i) {
    attention(i, step, trace);
    mlp(i, n_tokens_, trace);
  }
  if (!shard.is_last_stage()) parts_.pp->send(parts_.stream, residual, shard.pp_rank + 1);
}

void StageForward::attention(int32_t local_layer, const StepTokens& step, TraceSink* trace) {
  Workspace& w = *workspace_;
  const ModelConfig& config = *parts_.config;
  const ShardPlan& shard = *parts_.shard;
  const KernelTable& kernels = *parts_.kernels;
  const Stream stream = parts_.stream;
  const LayerWeights& layer = parts_.weights->layers[static_cast<size_t>(local_layer)];
  const KvLayer& kv = parts_.kv->layer(local_layer);
  const int32_t index = shard.layers.begin + local_layer;
  const int64_t n = n_tokens_;

  const Tensor residual = w.residual.rows(n);
  const Tensor normed = w.normed.rows(n);
  kernels.rms_norm(stream, normed, residual, layer.input_norm, config.rms_norm_eps);
  const Tensor q = w.q.rows(n);
  const Tensor k = w.k.rows(n);
  const Tensor v = w.v.rows(n);
  kernels.linear(stream, q, normed, layer.q);
  kernels.linear(stream, k, normed, layer.k);
  kernels.linear(stream, v, normed, layer.v);
  if (config.qk_norm) {
    const Tensor q_rows = as_head_rows(q, config.head_dim);
    const Tensor k_rows = as_head_rows(k, config.head_dim);
    kernels.rms_norm(stream, q_rows, q_rows, layer.q_norm, config.rms_norm_eps);
    kernels.rms_norm(stream, k_rows, k_rows, layer.k_norm, config.rms_norm_eps);
  }
  const Tensor q_heads = as_heads(q, config.head_dim);
  const Tensor k_heads = as_heads(k, config.head_dim);
  kernels.rope(stream, q_heads, w.cos.rows(n), w.sin.rows(n));
  kernels.rope(stream, k_heads, w.cos.rows(n), w.sin.rows(n));
  kernels.store_kv(stream, kv, k_heads, as_heads(v, config.head_dim),
                   make_tensor(const_cast<int32_t*>(step.slot_mapping), DType::kI32, {n}));
  const Tensor attended = w.attended.rows(n);
  kernels.paged_attention(stream, attended, q_heads, kv,
                          {.positions = step.positions,
                           .slots = step.slots,
                           .block_tables = step.block_tables,
                           .block_table_stride = step.block_table_stride,
                           .n_heads = shard.heads.size(),
                           .first_head = shard.heads.begin,
                           .first_kv_head = shard.kv_heads.begin,
                           .heads_per_kv = div_exact(config.n_heads, config.n_kv_heads),
                           .window = config.layer_window[static_cast<size_t>(index)],
                           .scale = config.attention_scale,
                           .scratch = w.attention_scratch.data(),
                           .scratch_bytes = w.attention_scratch.size_bytes()});
  const Tensor reduced =
      reduce_leaves(attended, layer.o, shard.attention_tree, shard.attention_leaves.begin);
  if (trace != nullptr) {
    trace->add(index, TraceOp::kInputNorm, normed);
    trace_heads(*trace, index, TraceOp::kQuery, q, shard.heads);
    trace_heads(*trace, index, TraceOp::kKey, k, shard.kv_heads);
    trace_heads(*trace, index, TraceOp::kValue, v, shard.kv_heads);
    trace_heads(*trace, index, TraceOp::kAttention, attended, shard.heads);
    trace->add(index, TraceOp::kAttentionOut, reduced);
  }
  kernels.add(stream, residual, reduced, layer.o_bias);
  if (trace != nullptr) trace->add(index, TraceOp::kAttentionResidual, residual);
}

void StageForward::mlp(int32_t local_layer, int32_t n_tokens, TraceSink* trace) {
  Workspace& w = *workspace_;
  const ShardPlan& shard = *parts_.shard;
  const KernelTable& kernels = *parts_.kernels;
  const Stream stream = parts_.stream;
  const LayerWeights& layer = parts_.weights->layers[static_cast<size_t>(local_layer)];
  const int32_t index = shard.layers.begin + local_layer;

  const Tensor residual = w.residual.rows(n_tokens);
  const Tensor normed = w.normed.rows(n_tokens);
  kernels.rms_norm(stream, normed, residual, layer.post_norm, parts_.config->rms_norm_eps);
  kernels.linear(stream, w.gate.rows(n_tokens), normed, layer.gate);
  kernels.linear(stream, w.up.rows(n_tokens), normed, layer.up);
  const Tensor activation = w.activation.rows(n_tokens);
  kernels.silu_mul(stream, activation, w.gate.rows(n_tokens), w.up.rows(n_tokens));
  const Tensor reduced =
      reduce_leaves(activation, layer.down, shard.mlp_tree, shard.mlp_leaves.begin);
  if (trace != nullptr) {
    trace->add(index, TraceOp::kPostNorm, normed);
    const ModelCuts cuts = model_cuts(*parts_.config);
    for (int leaf = shard.mlp_leaves.begin; leaf < shard.mlp_leaves.end; ++leaf) {
      const IndexRange columns = mlp_columns(*parts_.config, cuts, leaf);
      trace->add(index, TraceOp::kActivation, leaf, activation,
                 columns.begin - shard.mlp_columns.begin, columns.end - shard.mlp_columns.begin);
    }
    trace->add(index, TraceOp::kMlpOut, reduced);
  }
  kernels.add(stream, residual, reduced, layer.down_bias);
  if (trace != nullptr) trace->add(index, TraceOp::kMlpResidual, residual);
}

// x @ w.T of a row-parallel weight, summed over all ranks' leaves in tree order.
Tensor StageForward::reduce_leaves(Tensor x, const Weight& weight, const TreePlan& tree,
                                   int32_t first_leaf) {
  Workspace& w = *workspace_;
  const int64_t n = x.dim(0);
  const int rank = parts_.shard->tp_rank;
  const auto first_node = static_cast<size_t>(tree.first_node[static_cast<size_t>(rank)]);
  const std::span<const TreeNode> nodes(&tree.nodes[first_node],
                                        static_cast<size_t>(tree.n_nodes_of(rank)));
  const Tensor partials =
      make_tensor(w.partials.memory.data(), DType::kF32,
                  {static_cast<int64_t>(nodes.size()), n, weight.n_out}, x.device);
  parts_.kernels->linear_tree(parts_.stream, partials, x, weight, first_leaf, nodes);
  if (parts_.tp->size() == 1) {
    return make_tensor(partials.data, DType::kF32, {n, weight.n_out}, x.device);
  }
  const Tensor reduced = w.reduced.rows(n);
  parts_.tp->all_reduce_tree(parts_.stream, tree, partials, reduced);
  return reduced;
}

Tensor StageForward::logits(const int32_t* rows, int32_t n_rows, TraceSink* trace) {
  const ShardPlan& shard = *parts_.shard;
  TRIREME_CHECK(shard.is_last_stage());
  TRIREME_CHECK(n_rows > 0 && n_rows <= parts_.max_logit_rows);
  Workspace& w = *workspace_;
  const Tensor picked = w.head_rows.rows(n_rows);
  for (int32_t i = 0; i < n_rows; ++i) {
    TRIREME_CHECK(rows[i] >= 0 && rows[i] < n_tokens_);
    const float* from =
        w.residual.rows(n_tokens_).as<float>() + int64_t{rows[i]} * w.residual.columns;
    std::copy_n(from, w.residual.columns, picked.as<float>() + i * w.head_rows.columns);
  }
  const Tensor normed = w.head_normed.rows(n_rows);
  parts_.kernels->rms_norm(parts_.stream, normed, picked, parts_.weights->final_norm,
                           parts_.config->rms_norm_eps);
  Tensor local = make_tensor(w.local_logits.memory.data(), DType::kF32,
                             {n_rows, shard.vocab.size()}, parts_.stream.device);
  if (parts_.tp->size() == 1) local = w.logits.rows(n_rows);
  if (shard.vocab.size() > 0) {
    parts_.kernels->linear(parts_.stream, local, normed, parts_.weights->lm_head);
  }
  if (trace != nullptr) {
    trace->add(parts_.config->n_layers, TraceOp::kFinalNorm, normed);
    for (int32_t c = shard.vocab.begin; c < shard.vocab.end; c += kVocabChunk) {
      trace->add(parts_.config->n_layers, TraceOp::kLogits, c / kVocabChunk, local,
                 c - shard.vocab.begin,
                 std::min(c + kVocabChunk, shard.vocab.end) - shard.vocab.begin);
    }
  }
  if (parts_.tp->size() > 1) gather_logits(local, n_rows);
  return shard.tp_rank == 0 ? w.logits.rows(n_rows) : Tensor{};
}

// All ranks' columns, side by side, on tp_rank 0. Every rank brings as much as the widest.
void StageForward::gather_logits(Tensor local, int32_t n_rows) {
  Workspace& w = *workspace_;
  const ShardPlan& shard = *parts_.shard;
  const int64_t piece = n_rows * w.local_logits.columns;
  parts_.tp->all_gather(
      parts_.stream,
      make_tensor(w.gathered.memory.data(), DType::kF32, {shard.layout.tp, piece}, local.device),
      make_tensor(w.local_logits.memory.data(), DType::kF32, {piece}, local.device));
  if (shard.tp_rank != 0) return;
  const int32_t n_chunks = model_cuts(*parts_.config).n_vocab_chunks;
  const auto* gathered = static_cast<const float*>(w.gathered.memory.data());
  auto* out = static_cast<float*>(w.logits.memory.data());
  const int32_t vocab = parts_.config->vocab_size;
  for (int r = 0; r < shard.layout.tp; ++r) {
    const int32_t begin = std::min(vocab, first_leaf(n_chunks, r, shard.layout.tp) * kVocabChunk);
    const int32_t end = std::min(vocab, first_leaf(n_chunks, r + 1, shard.layout.tp) * kVocabChunk);
    const int64_t width = end - begin;
    for (int64_t i = 0; i < n_rows; ++i) {
      std::copy_n(gathered + r * piece + i * width, width, out + i * vocab + begin);
    }
  }
}

}  // namespace trireme
