#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/gemm_input.h"
#include "kernels/leaf_tree.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace trireme {

constexpr int kKvBlockTokens = 16;    // tokens in one KV block
constexpr int kAttentionChunk = 128;  // KV positions merged at a time, anchored at position 0
constexpr int kVocabSumChunk = 1024;  // vocabulary columns summed together

// One layer's KV cache on one rank. dtype float32, bf16 or int8, the same for keys and values.
//   k, float32:    [n_blocks][n_kv_heads][head_dim][16 tokens]          (a token is a lane)
//   k, bf16, int8: [n_blocks][n_kv_heads][head_dim / 2][16 tokens][2]
//   v, float32:    [n_blocks][n_kv_heads][16 tokens][head_dim]
//   v, bf16, int8: [n_blocks][n_kv_heads][8 pairs of tokens][head_dim][2]
// int8 elements are whole numbers in [-127, 127] times their token's and head's scale.
struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  float* k_scales = nullptr;  // int8 only: [n_blocks][n_kv_heads][16 tokens]
  float* v_scales = nullptr;  // the same
  DType dtype = DType::kBF16;
  Device device;
  int32_t n_blocks = 0;
  int32_t n_kv_heads = 0;  // on this rank
  int32_t head_dim = 0;    // even
};

// Where each token of a step stands. Arrays in the stream's memory.
struct AttentionMeta {
  const int32_t* positions = nullptr;     // [n_tokens]
  const int32_t* slots = nullptr;         // [n_tokens], row of block_tables
  const int32_t* block_tables = nullptr;  // [max_slots, block_table_stride] block ids
  int32_t block_table_stride = 0;
  int32_t n_heads = 0;        // query heads on this rank
  int32_t first_head = 0;     // global index of the first of them
  int32_t first_kv_head = 0;  // global index of KvLayer's first head
  int32_t heads_per_kv = 1;
  int32_t window = 0;  // tokens a position sees, itself included; 0: all
  float scale = 1.0F;
  void* scratch = nullptr;   // aligned to 64 bytes; nothing in it outlives the call
  size_t scratch_bytes = 0;  // attention_scratch_bytes()
};

// Scratch that lets paged_attention() split the contexts of few rows over threads.
size_t attention_scratch_bytes(int32_t max_tokens, int32_t head_dim);

// The operators of one backend; every row is filled. Activations are float32 unless said otherwise.
// An operator made of several gives the bits that these give one after another.
struct KernelTable {
  std::string_view name;  // "avx512"; part of the numerics id

  // out [n_tokens, hidden] = rows `ids` [n_tokens] int32 of the embedding. Ids outside
  // [first_id, first_id + rows in `embedding`) give zeros: they are another rank's.
  void (*embed)(Stream, Tensor out, Tensor ids, const Weight& embedding, int32_t first_id);

  // out [n_rows, n] = x [n_rows, n], rounded or quantized as the input of a GEMM.
  void (*to_gemm_input)(Stream, const GemmInput& out, Tensor x);

  // out [n_rows, n] = x [n_rows, n] / rms(x) * weight [n]; out may be x. Of [n_rows, n_heads, n]
  // each head is a row.
  void (*rms_norm)(Stream, Tensor out, Tensor x, const float* weight, float eps);

  // rms_norm, to_gemm_input.
  void (*rms_norm_input)(Stream, const GemmInput& out, Tensor x, const float* weight, float eps);

  // add (x += y + bias), rms_norm of x, to_gemm_input.
  void (*add_rms_norm_input)(Stream, const GemmInput& out, Tensor x, Tensor y, const float* bias,
                             const float* weight, float eps);

  // out [n_tokens, weight.n_out] = x @ w.T + bias, x of weight.k_in columns in one span.
  void (*linear)(Stream, Tensor out, const GemmInput& x, const Weight& weight);

  // Row-parallel: out [nodes.size(), n_tokens, weight.n_out], each node the sum of its leaves in
  // tree order. weight.blocks[i] is leaf first_leaf + i and multiplies x.spans[i].
  void (*linear_tree)(Stream, Tensor out, const GemmInput& x, const Weight& weight,
                      int32_t first_leaf, std::span<const TreeNode> nodes);

  // linear (gate), linear (up), silu_mul, to_gemm_input. One block of gate and of up for each span
  // of out. gate_out, up_out [n_tokens, n]: scratch.
  void (*gate_up)(Stream, const GemmInput& out, const GemmInput& x, const Weight& gate,
                  const Weight& up, Tensor gate_out, Tensor up_out);

  // cos, sin [n_tokens, head_dim / 2] of positions * inv_freq, times scale.
  void (*rope_table)(Stream, Tensor cos, Tensor sin, Tensor positions, const float* inv_freq,
                     float scale);

  // Rotates x [n_tokens, n_heads, head_dim] in place, halves paired (i, i + head_dim / 2).
  void (*rope)(Stream, Tensor x, Tensor cos, Tensor sin);

  // Writes k and v [n_tokens, n_kv_heads, head_dim] to the cache, rounded to its dtype.
  // slot_mapping [n_tokens] int32: block * 16 + offset.
  void (*store_kv)(Stream, const KvLayer&, Tensor k, Tensor v, Tensor slot_mapping);

  // rope (q), rope (k), store_kv.
  void (*rope_store_kv)(Stream, const KvLayer&, Tensor q, Tensor k, Tensor v, Tensor cos,
                        Tensor sin, Tensor slot_mapping);

  // out [n_tokens, n_heads * head_dim] float32 or bf16; q [n_tokens, n_heads, head_dim]. For each
  // token and head, each 128 positions from 0 on are taken alone: scores, weights exp(score - their
  // maximum), sums; these are merged in ascending order. With a bf16 or int8 cache, q and the
  // weights are rounded to bf16. Tokens of one sequence at consecutive positions should be
  // neighbours: they share their reads of the cache.
  void (*paged_attention)(Stream, Tensor out, Tensor q, const KvLayer&, const AttentionMeta&);

  // out [n_tokens, n] = silu(gate) * up.
  void (*silu_mul)(Stream, Tensor out, Tensor gate, Tensor up);

  // x [n_tokens, n] += y [n_tokens, n] + bias [n] (bias may be null).
  void (*add)(Stream, Tensor x, Tensor y, const float* bias);

  // ids [n_rows] int32 = the first of the largest of logits [n_rows, vocab].
  void (*argmax)(Stream, Tensor ids, Tensor logits);

  // out [n_rows] float32 = log(sum(exp(logits [n_rows, vocab]))), over fixed chunks in order.
  void (*log_sum_exp)(Stream, Tensor out, Tensor logits);

  // out [n] = exp((x [n] - max) * scale); float32.
  void (*scaled_exp)(Stream, Tensor out, Tensor x, float max, float scale);
};

// The table for this machine's CPU, or the one named ("avx512", "avx2", "portable"; empty: the best
// that runs here). Null when the name is unknown or cannot run here.
const KernelTable* cpu_kernels(std::string_view name = {});

// Rounding to nearest, denormals kept. Every thread that computes calls it once.
void set_float_mode();

}  // namespace trireme
