#include "model/stage_forward.h"

#include <algorithm>

#include "kernels/result.h"
#include "model/stage_workspace.h"

namespace trireme {
namespace {

// What the whole group's embedding needs to be added up: one leaf per rank, all but one of them
// zero.
TreePlan one_leaf_per_rank(int n_ranks) { return make_tree_plan(n_ranks, n_ranks); }

bool same_qkv(const LayerWeights& layer) {
  return layer.q.encoding == layer.k.encoding && layer.q.encoding == layer.v.encoding;
}

GraphOptions graph_options(const StageParts& parts, bool fuse) {
  const auto& layers = parts.weights->layers;
  return {.n_layers = parts.shard->layers.size(),
          .qk_norm = parts.config->qk_norm,
          .fuse = fuse,
          .same_qkv = std::all_of(layers.begin(), layers.end(), same_qkv),
          .format = parts.format};
}

std::shared_ptr<StageWorkspace> make_workspace(const StageParts& parts) {
  const bool has_head = parts.shard->is_last_stage();
  return std::make_shared<StageWorkspace>(
      WorkspaceShape{.config = parts.config,
                     .shard = parts.shard,
                     .layer_format = parts.format,
                     .head_format = has_head ? parts.weights->lm_head.format() : parts.format,
                     .max_tokens = parts.max_tokens,
                     .max_logit_rows = parts.max_logit_rows,
                     .device = parts.stream.device});
}

// q, k and v side by side in one output row.
std::vector<WeightBlock> side_by_side(const LayerWeights& layer) {
  std::vector<WeightBlock> blocks;
  int32_t begin = 0;
  for (const Weight* weight : {&layer.q, &layer.k, &layer.v}) {
    for (WeightBlock block : weight->blocks) {
      block.out_begin += begin;
      blocks.push_back(block);
    }
    begin += weight->n_out;
  }
  return blocks;
}

}  // namespace

StageForward::StageForward(const StageParts& parts)
    : parts_(parts),
      rope_(rope_frequencies(*parts.config, parts.context_length)),
      embed_tree_(one_leaf_per_rank(parts.shard->layout.tp)),
      plain_graph_(make_stage_graph(graph_options(parts, false))),
      graph_(make_stage_graph(graph_options(parts, parts.fuse))),
      workspace_(parts.workspace ? parts.workspace : make_workspace(parts)) {
  TRIREME_CHECK(parts.max_tokens > 0 && parts.max_logit_rows > 0);
  TRIREME_CHECK(static_cast<int32_t>(parts.weights->layers.size()) == parts.shard->layers.size());
  qkv_blocks_.reserve(parts.weights->layers.size());
  for (const LayerWeights& layer : parts.weights->layers) {
    qkv_blocks_.push_back(side_by_side(layer));
    Weight qkv = layer.q;
    qkv.blocks = qkv_blocks_.back();
    qkv.n_out += layer.k.n_out + layer.v.n_out;
    qkv_.push_back(qkv);
  }
}

uint64_t StageForward::workspace_bytes(const ModelConfig& config, const ShardPlan& shard,
                                       WeightFormat format, int32_t max_tokens,
                                       int32_t max_logit_rows) {
  // Mapped but never touched, so it costs address space only.
  return StageWorkspace({.config = &config,
                         .shard = &shard,
                         .layer_format = format,
                         .head_format = format,
                         .max_tokens = max_tokens,
                         .max_logit_rows = max_logit_rows})
      .size_bytes();
}

const LayerWeights& StageForward::weights_of(int32_t local_layer) const {
  return parts_.weights->layers[static_cast<size_t>(local_layer)];
}

Tensor StageForward::query() const {
  return workspace_->qkv.columns(n_tokens_, 0,
                                 int64_t{parts_.shard->heads.size()} * parts_.config->head_dim);
}
Tensor StageForward::key() const {
  const int64_t head_dim = parts_.config->head_dim;
  return workspace_->qkv.columns(n_tokens_, parts_.shard->heads.size() * head_dim,
                                 parts_.shard->kv_heads.size() * head_dim);
}
Tensor StageForward::value() const {
  const int64_t head_dim = parts_.config->head_dim;
  const int64_t n_before = int64_t{parts_.shard->heads.size()} + parts_.shard->kv_heads.size();
  return workspace_->qkv.columns(n_tokens_, n_before * head_dim,
                                 parts_.shard->kv_heads.size() * head_dim);
}

Tensor StageForward::as_heads(Tensor x) const {
  const int64_t head_dim = parts_.config->head_dim;
  Tensor heads =
      make_tensor(x.data, x.dtype, {x.dim(0), div_exact(x.dim(1), head_dim), head_dim}, x.device);
  heads.row_stride = x.row_stride;
  return heads;
}

void StageForward::embed(const StepTokens& step) {
  StageWorkspace& w = *workspace_;
  const Tensor ids = make_tensor(const_cast<int32_t*>(step.input_ids), DType::kI32, {n_tokens_});
  const bool alone = parts_.tp->size() == 1;
  const Tensor out = alone ? w.residual.rows(n_tokens_) : w.partials.rows(n_tokens_);
  parts_.kernels->embed(parts_.stream, out, ids, parts_.weights->embedding,
                        parts_.shard->vocab.begin);
  if (!alone) {
    const Tensor partial =
        make_tensor(out.data, DType::kF32, {1, n_tokens_, w.residual.n_columns()}, out.device);
    parts_.tp->all_reduce_tree(parts_.stream, embed_tree_, partial, w.residual.rows(n_tokens_));
  }
}

void StageForward::run(const StepTokens& step, TraceSink* trace) {
  TRIREME_CHECK(step.n_tokens > 0 && step.n_tokens <= parts_.max_tokens);
  StageWorkspace& w = *workspace_;
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
  // A trace wants every operator's output.
  for (const StageOp& op : trace != nullptr ? plain_graph_ : graph_) {
    execute(op, step);
    if (trace != nullptr) trace_op(op, *trace);
  }
  if (!shard.is_last_stage()) parts_.pp->send(parts_.stream, residual, shard.pp_rank + 1);
}

void StageForward::execute(const StageOp& op, const StepTokens& step) {
  StageWorkspace& w = *workspace_;
  const KernelTable& kernels = *parts_.kernels;
  const Stream stream = parts_.stream;
  const ShardPlan& shard = *parts_.shard;
  const LayerWeights& layer = weights_of(op.layer);
  const float eps = parts_.config->rms_norm_eps;
  const int64_t n = n_tokens_;
  const Tensor residual = w.residual.rows(n);
  const GemmInput hidden = w.hidden_input.rows(n);
  const GemmInput attended = w.attended_input.rows(n);
  const GemmInput activation = w.activation_input.rows(n);
  const Tensor gate = w.gate.rows(n);
  const Tensor up = w.up.rows(n);
  switch (op.kind) {
    case OpKind::kInputNorm:
      return kernels.rms_norm(stream, w.normed.rows(n), residual, layer.input_norm, eps);
    case OpKind::kPostNorm:
      return kernels.rms_norm(stream, w.normed.rows(n), residual, layer.post_norm, eps);
    case OpKind::kQuantizeNormed: return kernels.to_gemm_input(stream, hidden, w.normed.rows(n));
    case OpKind::kInputNormQuantize:
      return kernels.rms_norm_input(stream, hidden, residual, layer.input_norm, eps);
    case OpKind::kAddInputNormQuantize:
      return kernels.add_rms_norm_input(stream, hidden, residual, reduced(),
                                        weights_of(op.layer - 1).down_bias, layer.input_norm, eps);
    case OpKind::kAddPostNormQuantize:
      return kernels.add_rms_norm_input(stream, hidden, residual, reduced(), layer.o_bias,
                                        layer.post_norm, eps);
    case OpKind::kQuery: return kernels.linear(stream, query(), hidden, layer.q);
    case OpKind::kKey: return kernels.linear(stream, key(), hidden, layer.k);
    case OpKind::kValue: return kernels.linear(stream, value(), hidden, layer.v);
    case OpKind::kQkv:
      return kernels.linear(stream, w.qkv.rows(n), hidden, qkv_[static_cast<size_t>(op.layer)]);
    case OpKind::kQkNorm:
      kernels.rms_norm(stream, as_heads(query()), as_heads(query()), layer.q_norm, eps);
      return kernels.rms_norm(stream, as_heads(key()), as_heads(key()), layer.k_norm, eps);
    case OpKind::kRopeQuery:
      return kernels.rope(stream, as_heads(query()), w.cos.rows(n), w.sin.rows(n));
    case OpKind::kRopeKey:
      return kernels.rope(stream, as_heads(key()), w.cos.rows(n), w.sin.rows(n));
    case OpKind::kStoreKv: return store_kv(op, step, false);
    case OpKind::kRopeStoreKv: return store_kv(op, step, true);
    case OpKind::kAttention: return attend(op, step, w.attended.rows(n));
    case OpKind::kAttentionQuantize: return attend(op, step, attended.values);
    case OpKind::kQuantizeAttended:
      return kernels.to_gemm_input(stream, attended, w.attended.rows(n));
    case OpKind::kAttentionOut:
      return reduce_leaves(attended, layer.o, shard.attention_tree, shard.attention_leaves.begin);
    case OpKind::kAddAttention: return kernels.add(stream, residual, reduced(), layer.o_bias);
    case OpKind::kGate: return kernels.linear(stream, gate, hidden, layer.gate);
    case OpKind::kUp: return kernels.linear(stream, up, hidden, layer.up);
    case OpKind::kSiluMul: return kernels.silu_mul(stream, gate, gate, up);
    case OpKind::kQuantizeActivation: return kernels.to_gemm_input(stream, activation, gate);
    case OpKind::kGateUpQuantize:
      return kernels.gate_up(stream, activation, hidden, layer.gate, layer.up, gate, up);
    case OpKind::kMlpOut:
      return reduce_leaves(activation, layer.down, shard.mlp_tree, shard.mlp_leaves.begin);
    case OpKind::kAddMlp: return kernels.add(stream, residual, reduced(), layer.down_bias);
  }
}

void StageForward::store_kv(const StageOp& op, const StepTokens& step, bool with_rope) {
  const StageWorkspace& w = *workspace_;
  const KvLayer& kv = parts_.kv->layer(op.layer);
  const Tensor slots =
      make_tensor(const_cast<int32_t*>(step.slot_mapping), DType::kI32, {n_tokens_});
  if (!with_rope) {
    parts_.kernels->store_kv(parts_.stream, kv, as_heads(key()), as_heads(value()), slots);
    return;
  }
  parts_.kernels->rope_store_kv(parts_.stream, kv, as_heads(query()), as_heads(key()),
                                as_heads(value()), w.cos.rows(n_tokens_), w.sin.rows(n_tokens_),
                                slots);
}

void StageForward::attend(const StageOp& op, const StepTokens& step, Tensor out) {
  const ModelConfig& config = *parts_.config;
  const ShardPlan& shard = *parts_.shard;
  const auto index = static_cast<size_t>(shard.layers.begin + op.layer);
  parts_.kernels->paged_attention(parts_.stream, out, as_heads(query()), parts_.kv->layer(op.layer),
                                  {.positions = step.positions,
                                   .slots = step.slots,
                                   .block_tables = step.block_tables,
                                   .block_table_stride = step.block_table_stride,
                                   .n_heads = shard.heads.size(),
                                   .first_head = shard.heads.begin,
                                   .first_kv_head = shard.kv_heads.begin,
                                   .heads_per_kv = div_exact(config.n_heads, config.n_kv_heads),
                                   .window = config.layer_window[index],
                                   .scale = config.attention_scale,
                                   .scratch = workspace_->attention_scratch.data(),
                                   .scratch_bytes = workspace_->attention_scratch.size_bytes()});
}

// x @ w.T of a row-parallel weight, summed over all ranks' leaves in tree order.
void StageForward::reduce_leaves(const GemmInput& x, const Weight& weight, const TreePlan& tree,
                                 int32_t first_leaf) {
  StageWorkspace& w = *workspace_;
  const int rank = parts_.shard->tp_rank;
  const auto first_node = static_cast<size_t>(tree.first_node[static_cast<size_t>(rank)]);
  const std::span<const TreeNode> nodes(&tree.nodes[first_node],
                                        static_cast<size_t>(tree.n_nodes_of(rank)));
  const Tensor partials = make_tensor(w.partials.data(), DType::kF32,
                                      {static_cast<int64_t>(nodes.size()), n_tokens_, weight.n_out},
                                      parts_.stream.device);
  parts_.kernels->linear_tree(parts_.stream, partials, x, weight, first_leaf, nodes);
  if (parts_.tp->size() > 1) {
    parts_.tp->all_reduce_tree(parts_.stream, tree, partials, w.reduced.rows(n_tokens_));
  }
}

Tensor StageForward::reduced() const {
  const StageWorkspace& w = *workspace_;
  return parts_.tp->size() == 1 ? w.partials.rows(n_tokens_) : w.reduced.rows(n_tokens_);
}

void StageForward::trace_heads(TraceSink& trace, int32_t layer, TraceOp op, Tensor x,
                               IndexRange heads) const {
  const int64_t head_dim = parts_.config->head_dim;
  for (int32_t h = heads.begin; h < heads.end; ++h) {
    trace.add(layer, op, h, x, (h - heads.begin) * head_dim, (h - heads.begin + 1) * head_dim);
  }
}

void StageForward::trace_op(const StageOp& op, TraceSink& trace) const {
  const StageWorkspace& w = *workspace_;
  const ShardPlan& shard = *parts_.shard;
  const int32_t layer = shard.layers.begin + op.layer;
  const int64_t n = n_tokens_;
  switch (op.kind) {
    case OpKind::kInputNorm: return trace.add(layer, TraceOp::kInputNorm, w.normed.rows(n));
    case OpKind::kStoreKv:
      trace_heads(trace, layer, TraceOp::kQuery, query(), shard.heads);
      trace_heads(trace, layer, TraceOp::kKey, key(), shard.kv_heads);
      return trace_heads(trace, layer, TraceOp::kValue, value(), shard.kv_heads);
    case OpKind::kAttention:
      return trace_heads(trace, layer, TraceOp::kAttention, w.attended.rows(n), shard.heads);
    case OpKind::kAttentionOut: return trace.add(layer, TraceOp::kAttentionOut, reduced());
    case OpKind::kAddAttention:
      return trace.add(layer, TraceOp::kAttentionResidual, w.residual.rows(n));
    case OpKind::kPostNorm: return trace.add(layer, TraceOp::kPostNorm, w.normed.rows(n));
    case OpKind::kSiluMul: {
      const ModelCuts cuts = model_cuts(*parts_.config);
      for (int leaf = shard.mlp_leaves.begin; leaf < shard.mlp_leaves.end; ++leaf) {
        const IndexRange columns = mlp_columns(*parts_.config, cuts, leaf);
        trace.add(layer, TraceOp::kActivation, leaf, w.gate.rows(n),
                  columns.begin - shard.mlp_columns.begin, columns.end - shard.mlp_columns.begin);
      }
      return;
    }
    case OpKind::kMlpOut: return trace.add(layer, TraceOp::kMlpOut, reduced());
    case OpKind::kAddMlp: return trace.add(layer, TraceOp::kMlpResidual, w.residual.rows(n));
    default: return;
  }
}

// Token rows of the residual stream, one below the other. [n_rows, hidden]
Tensor StageForward::pick_rows(const int32_t* rows, int32_t n_rows) {
  TRIREME_CHECK(parts_.shard->is_last_stage());
  TRIREME_CHECK(n_rows > 0 && n_rows <= parts_.max_logit_rows);
  StageWorkspace& w = *workspace_;
  const int64_t hidden = w.residual.n_columns();
  for (int32_t i = 0; i < n_rows; ++i) {
    TRIREME_CHECK(rows[i] >= 0 && rows[i] < n_tokens_);
    std::copy_n(w.residual.data() + rows[i] * hidden, hidden, w.head_rows.data() + i * hidden);
  }
  return w.head_rows.rows(n_rows);
}

Tensor StageForward::final_hidden(const int32_t* rows, int32_t n_rows) {
  const Tensor picked = pick_rows(rows, n_rows);
  const Tensor normed = workspace_->normed.rows(n_rows);
  parts_.kernels->rms_norm(parts_.stream, normed, picked, parts_.weights->final_norm,
                           parts_.config->rms_norm_eps);
  return normed;
}

Tensor StageForward::logits(const int32_t* rows, int32_t n_rows, TraceSink* trace) {
  const ShardPlan& shard = *parts_.shard;
  StageWorkspace& w = *workspace_;
  // The row's own norm, before it is rounded.
  if (trace != nullptr)
    trace->add(parts_.config->n_layers, TraceOp::kFinalNorm, final_hidden(rows, n_rows));
  const Tensor picked = pick_rows(rows, n_rows);
  const GemmInput input = w.head_input.rows(n_rows);
  parts_.kernels->rms_norm_input(parts_.stream, input, picked, parts_.weights->final_norm,
                                 parts_.config->rms_norm_eps);
  Tensor local = make_tensor(w.local_logits.data(), DType::kF32, {n_rows, shard.vocab.size()},
                             parts_.stream.device);
  if (parts_.tp->size() == 1) local = w.logits.rows(n_rows);
  if (shard.vocab.size() > 0) {
    parts_.kernels->linear(parts_.stream, local, input, parts_.weights->lm_head);
  }
  if (trace != nullptr) {
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
  StageWorkspace& w = *workspace_;
  const ShardPlan& shard = *parts_.shard;
  const int64_t piece = n_rows * w.local_logits.n_columns();
  parts_.tp->all_gather(
      parts_.stream,
      make_tensor(w.gathered.data(), DType::kF32, {shard.layout.tp, piece}, local.device),
      make_tensor(w.local_logits.data(), DType::kF32, {piece}, local.device));
  if (shard.tp_rank != 0) return;
  const int32_t n_chunks = model_cuts(*parts_.config).n_vocab_chunks;
  const float* gathered = w.gathered.data();
  float* out = w.logits.data();
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
