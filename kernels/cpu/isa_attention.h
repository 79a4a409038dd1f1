#pragma once

// Paged attention: cuts a step into tasks (tokens of one sequence, one KV head), and long contexts
// of few tasks into chunks, too. A row's chunks are computed alone and merged in ascending order in
// every case, so its bits do not depend on the cut. Private to isa_kernels.cpp.

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/isa_attention_chunk.h"
#include "kernels/int_math.h"
#include "kernels/kernel_table.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

struct AttentionJob {
  Tensor q;
  Tensor out;
  const KvLayer& kv;
  const AttentionMeta& meta;
  int32_t* tile_begin = nullptr;  // [n_tiles + 1] first tokens
  int32_t n_tiles = 0;
  int32_t tile_heads = 0;    // query heads of a KV head in one task
  int32_t n_head_sets = 0;   // tasks of one tile and KV head
  float* records = nullptr;  // for chunks computed apart
  int64_t n_records = 0;

  int64_t n_tasks() const { return int64_t{n_tiles} * kv.n_kv_heads * n_head_sets; }
};

struct AttentionTask {
  TileRows rows;
  int64_t token;  // first
  int head;       // first, local
  int first_chunk;
  int end_chunk;
};

// Consecutive tokens of one sequence, at most so many that a KV head's rows fill a tile.
inline void cut_tiles(AttentionJob& job) {
  const AttentionMeta& meta = job.meta;
  const int group = std::min(meta.heads_per_kv, meta.n_heads);
  job.tile_heads = std::min(group, kMaxTileRows);
  job.n_head_sets = (group + job.tile_heads - 1) / job.tile_heads;
  const int64_t tile_tokens = kMaxTileRows / job.tile_heads;
  const int64_t n_tokens = job.q.shape[0];
  for (int64_t t = 0; t < n_tokens;) {
    job.tile_begin[job.n_tiles++] = static_cast<int32_t>(t);
    const int64_t begin = t++;
    while (t < n_tokens && t - begin < tile_tokens && meta.slots[t] == meta.slots[begin] &&
           meta.positions[t] == meta.positions[t - 1] + 1) {
      ++t;
    }
  }
  job.tile_begin[job.n_tiles] = static_cast<int32_t>(n_tokens);
}

// Task 0 is the last tile's: late tokens have the most to do, so they come first.
inline AttentionTask task_at(const AttentionJob& job, int64_t index) {
  const AttentionMeta& meta = job.meta;
  const auto tile = static_cast<int>(job.n_tiles - 1 - index % job.n_tiles);
  const auto head_set = static_cast<int>(index / job.n_tiles % job.n_head_sets);
  const auto kv_head = static_cast<int>(index / job.n_tiles / job.n_head_sets);
  // Local query heads that read this KV head.
  const int begin = (meta.first_kv_head + kv_head) * meta.heads_per_kv - meta.first_head;
  const int end = std::min(begin + meta.heads_per_kv, meta.n_heads);
  const int head = std::max(begin, 0) + head_set * job.tile_heads;
  const int64_t token = job.tile_begin[tile];
  AttentionTask task{
      .rows = {.positions = meta.positions + token,
               .blocks = meta.block_tables +
                         static_cast<int64_t>(meta.slots[token]) * meta.block_table_stride,
               .n_tokens = static_cast<int>(job.tile_begin[tile + 1] - token),
               .group = std::clamp(end - head, 0, job.tile_heads),
               .kv_head = kv_head,
               .window = meta.window,
               .scale = meta.scale},
      .token = token,
      .head = head,
      .first_chunk = 0,
      .end_chunk = 0};
  if (task.rows.group == 0) return task;
  task.first_chunk = task.rows.first_seen(0) / kAttentionChunk;
  task.end_chunk = task.rows.positions[task.rows.n_tokens - 1] / kAttentionChunk + 1;
  return task;
}

// The rows' queries, one after the other, as the products take them.
template <typename T>
void load_queries(TileScratch<T>& scratch, const AttentionJob& job, const AttentionTask& task) {
  const int head_dim = job.kv.head_dim;
  const auto n = static_cast<int64_t>(task.rows.group) * head_dim;
  auto* to = scratch.q.values;
  for (int t = 0; t < task.rows.n_tokens; ++t) {
    const float* from = static_cast<const float*>(job.q.data) +
                        (task.token + t) * job.q.row_stride +
                        static_cast<int64_t>(task.head) * head_dim;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store_operands(to + i, load(from + i));
    for (; i < n; ++i) put(to + i, from[i]);
    to += n;
  }
}

TRIREME_INLINE void store_out(float* p, V16 a, int n) { store_n(p, a, n); }
TRIREME_INLINE void store_out(BF16* p, V16 a, int n) {
  if (n == 16) {
    store_operands(p, a);
  } else {
    store_bf16_n(p, a, n);
  }
}

// Weighted values over the sum of the weights, of the task's rows.
template <typename Out>
void write_rows(const AttentionJob& job, const AttentionTask& task, const float* states) {
  const int head_dim = job.kv.head_dim;
  const int n = padded_dim(head_dim);
  for (int r = 0; r < task.rows.n(); ++r) {
    const float* state = states + static_cast<int64_t>(r) * record_floats(head_dim);
    Out* to = static_cast<Out*>(job.out.data) +
              (task.token + r / task.rows.group) * job.out.row_stride +
              static_cast<int64_t>(task.head + r % task.rows.group) * head_dim;
    const V16 inverse = splat(1.0F / sum_lanes(load(state + n)));
    for (int d = 0; d < head_dim; d += 16) {
      store_out(to + d, load(state + d) * inverse, std::min(16, head_dim - d));
    }
  }
}

template <typename T, typename Out>
void attend_whole(Stream stream, const AttentionJob& job) {
  const int head_dim = job.kv.head_dim;
  parallel_for(stream.pool, job.n_tasks(), 1, [&](int64_t begin, int64_t end) {
    TileScratch<T> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const AttentionTask task = task_at(job, i);
      load_queries(scratch, job, task);
      for (int r = 0; r < task.rows.n(); ++r) {
        start_record(scratch.states + r * record_floats(head_dim), head_dim);
      }
      for (int c = task.first_chunk; c < task.end_chunk; ++c) {
        attend_chunk(scratch, task.rows, job.kv, c, true, scratch.states);
      }
      write_rows<Out>(job, task, scratch.states);
    }
  });
}

// Records of a chunk that was computed apart into the states of the rows that see it.
inline void merge_apart(const AttentionTask& task, int64_t chunk, const float* records,
                        float* states, int head_dim) {
  const int64_t stride = record_floats(head_dim);
  for (int r = 0; r < task.rows.n(); ++r) {
    const int t = r / task.rows.group;
    if (task.rows.first_seen(t) / kAttentionChunk > chunk) continue;
    if (task.rows.positions[t] / kAttentionChunk < chunk) continue;
    merge_records(states + r * stride, records + r * stride, stride, 1, head_dim);
  }
}

// Chunks apart: `wave` chunks of every task at a time into records, then merged in order.
//   records [1 + wave][n_tokens * n_heads rows, a task's together]; the first holds the states
template <typename T, typename Out>
void attend_split(Stream stream, const AttentionJob& job, int64_t wave, int64_t most_chunks) {
  const int head_dim = job.kv.head_dim;
  const int64_t stride = record_floats(head_dim);
  const int64_t n_rows = job.q.shape[0] * job.meta.n_heads;
  const int64_t n_tasks = job.n_tasks();
  const auto records_of = [&](const AttentionTask& task, int64_t slot) {
    const int64_t row =
        task.token * job.meta.n_heads + static_cast<int64_t>(task.head) * task.rows.n_tokens;
    return job.records + (slot * n_rows + row) * stride;
  };
  for (int64_t first = 0; first < most_chunks; first += wave) {
    const int64_t grain = std::max<int64_t>(1, n_tasks * wave / (stream.pool->n_threads() * 4));
    parallel_for(stream.pool, n_tasks * wave, grain, [&](int64_t begin, int64_t end) {
      TileScratch<T> scratch;
      for (int64_t i = begin; i < end; ++i) {
        const AttentionTask task = task_at(job, i / wave);
        const int64_t slot = i % wave;
        const int64_t chunk = task.first_chunk + first + slot;
        if (chunk >= task.end_chunk) continue;
        load_queries(scratch, job, task);
        attend_chunk(scratch, task.rows, job.kv, static_cast<int>(chunk), false,
                     records_of(task, slot + 1));
      }
    });
    parallel_for(stream.pool, n_tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const AttentionTask task = task_at(job, i);
        float* states = records_of(task, 0);
        for (int r = 0; first == 0 && r < task.rows.n(); ++r) {
          start_record(states + r * stride, head_dim);
        }
        for (int64_t slot = 0; slot < wave; ++slot) {
          merge_apart(task, task.first_chunk + first + slot, records_of(task, slot + 1), states,
                      head_dim);
        }
        if (first + wave >= most_chunks) write_rows<Out>(job, task, states);
      }
    });
  }
}

template <typename T, typename Out>
void paged_attention_typed(Stream stream, Tensor out, Tensor q, const KvLayer& kv,
                           const AttentionMeta& meta) {
  AttentionJob job{.q = q, .out = out, .kv = kv, .meta = meta};
  const int64_t n_tokens = q.shape[0];
  const auto table_bytes =
      static_cast<size_t>(round_up<int64_t>((n_tokens + 1) * sizeof(int32_t), 64));
  TRIREME_CHECK(meta.scratch != nullptr && meta.scratch_bytes >= table_bytes);
  job.tile_begin = static_cast<int32_t*>(meta.scratch);
  job.records = reinterpret_cast<float*>(static_cast<std::byte*>(meta.scratch) + table_bytes);
  job.n_records = static_cast<int64_t>((meta.scratch_bytes - table_bytes) / sizeof(float)) /
                  record_floats(kv.head_dim);
  if (n_tokens == 0 || meta.n_heads == 0) return;
  cut_tiles(job);

  const int n_threads = stream.pool == nullptr ? 1 : stream.pool->n_threads();
  int64_t all_chunks = 0;
  int64_t most_chunks = 0;
  for (int64_t i = 0; n_threads > 1 && i < job.n_tasks(); ++i) {
    const AttentionTask task = task_at(job, i);
    all_chunks += task.end_chunk - task.first_chunk;
    most_chunks = std::max<int64_t>(most_chunks, task.end_chunk - task.first_chunk);
  }
  // Whole tasks leave threads waiting when the longest is a good part of one thread's share.
  const bool uneven = n_threads > 1 && most_chunks * n_threads * 2 > all_chunks;
  const int64_t wave = std::min(most_chunks, job.n_records / (n_tokens * meta.n_heads) - 1);
  if (uneven && wave >= 2) {
    attend_split<T, Out>(stream, job, wave, most_chunks);
  } else {
    attend_whole<T, Out>(stream, job);
  }
}

}  // namespace trireme::TRIREME_ISA
