#include <fmt/format.h>

#include "kernels/int_math.h"
#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

constexpr size_t kColdBytes = size_t{192} << 20;  // so much weight passes between two uses of one

// A linear layer as a rank without peers has it.
struct Layer {
  const char* name;
  int32_t n;
  int32_t k;
  int32_t n_blocks;
  bool row_parallel;  // blocks are leaves along K, and summed by the tree
  std::vector<int64_t> rows;
};

const std::vector<int64_t> kAllRows = {1, 2, 8, 16, 96, 512};

const Layer kGate = {"gate", kIntermediate, kHidden, kLeaves, false, kAllRows};

const Layer kLayers[] = {
    {"query", kHeads* kHeadDim, kHidden, kLeaves, false, kAllRows},
    {"key", kKvHeads* kHeadDim, kHidden, kKvHeads, false, {1, 16, 512}},
    {"output", kHidden, kHeads* kHeadDim, kLeaves, true, {1, 16, 512}},
    kGate,
    {"down", kHidden, kIntermediate, kLeaves, true, kAllRows},
    {"head", kVocab, kHidden, div_ceil(kVocab, kVocabSumChunk), false, {1, 16}},
};

int32_t block_k(const Layer& layer) {
  return layer.row_parallel ? layer.k / layer.n_blocks : layer.k;
}

int32_t block_n(const Layer& layer, int32_t block) {
  if (layer.row_parallel) return layer.n;
  const int32_t most = div_ceil(layer.n, layer.n_blocks);
  return std::min(most, layer.n - block * most);
}

// Copies of one layer's weight, enough that each is used from memory and not from a cache.
class ColdWeights {
 public:
  ColdWeights(const Layer& layer, WeightEncoding encoding)
      : one_bytes_(bytes_of(layer, encoding)),
        n_copies_(std::max<size_t>(1, div_ceil(kColdBytes, one_bytes_))),
        memory_(one_bytes_ * n_copies_, {}, "the weights of a benchmark") {
    fill_with_numbers(memory_.data(), memory_.size_bytes());
    auto* next = static_cast<std::byte*>(memory_.data());
    blocks_.resize(n_copies_);
    for (std::vector<WeightBlock>& blocks : blocks_) {
      for (int32_t i = 0; i < layer.n_blocks; ++i) {
        const BlockParts parts = block_parts_of(encoding, block_n(layer, i), block_k(layer));
        WeightBlock block;
        block.data = next;
        if (encoding.group > 0) block.scales = reinterpret_cast<const BF16*>(next + parts.scales);
        block.n = block_n(layer, i);
        block.k = block_k(layer);
        block.out_begin = layer.row_parallel ? 0 : i * block_n(layer, 0);
        blocks.push_back(block);
        next += round_up<int64_t>(parts.size, kBlockAlignment);
      }
      weights_.push_back({encoding, {}, blocks, layer.n, layer.k});
    }
  }

  const Weight& next() { return weights_[use_++ % n_copies_]; }
  size_t one_bytes() const { return one_bytes_; }

 private:
  static constexpr int64_t kBlockAlignment = 64;

  static size_t bytes_of(const Layer& layer, WeightEncoding encoding) {
    int64_t bytes = 0;
    for (int32_t i = 0; i < layer.n_blocks; ++i) {
      bytes += round_up<int64_t>(block_parts_of(encoding, block_n(layer, i), block_k(layer)).size,
                                 kBlockAlignment);
    }
    return static_cast<size_t>(bytes);
  }

  size_t one_bytes_;
  size_t n_copies_;
  size_t use_ = 0;
  Buffer memory_;
  std::vector<std::vector<WeightBlock>> blocks_;  // of each copy
  std::vector<Weight> weights_;
};

void set_linear_cost(benchmark::State& state, const Context& context, const FormatRow& format,
                     double weight_bytes, double n_products) {
  set_cost(state, context,
           {.bytes = weight_bytes,
            .operations = 2 * n_products,
            .arithmetic = (context.peaks.*format.arithmetic).of(context.n_threads)});
}

double n_products(const Layer& layer, int64_t n_rows) {
  return static_cast<double>(n_rows) * static_cast<double>(layer.n) * static_cast<double>(layer.k);
}

void run_linear(benchmark::State& state, const Context& context, const Layer& layer,
                const FormatRow& format, int64_t n_rows) {
  ColdWeights weights(layer, format.encoding);
  const auto n_spans = static_cast<size_t>(layer.row_parallel ? layer.n_blocks : 1);
  const GemmInputBuffer input = filled_input(
      context, n_rows, std::vector<int32_t>(n_spans, block_k(layer)), format.encoding.format);
  const FloatBuffer out(n_rows, layer.n, {});
  const Tensor sums = make_tensor(out.data(), DType::kF32, {1, n_rows, layer.n});
  const std::vector<TreeNode> all = {{0, kLeaves}};
  for (auto _ : state) {
    if (layer.row_parallel) {
      context.kernels->linear_tree(context.stream(), sums, input.rows(n_rows), weights.next(), 0,
                                   all);
    } else {
      context.kernels->linear(context.stream(), out.rows(n_rows), input.rows(n_rows),
                              weights.next());
    }
  }
  set_linear_cost(state, context, format, static_cast<double>(weights.one_bytes()),
                  n_products(layer, n_rows));
}

// The fused half of an MLP: gate, up, silu, and the input of down.
void run_gate_up(benchmark::State& state, const Context& context, const FormatRow& format,
                 int64_t n_rows) {
  const Layer& layer = kGate;
  ColdWeights gate(layer, format.encoding);
  ColdWeights up(layer, format.encoding);
  const GemmInputBuffer input = filled_input(context, n_rows, {layer.k}, format.encoding.format);
  const GemmInputBuffer out(n_rows, std::vector<int32_t>(kLeaves, layer.n / kLeaves),
                            gemm_input_dtype(format.encoding.format), {});
  const FloatBuffer gate_out(n_rows, layer.n, {});
  const FloatBuffer up_out(n_rows, layer.n, {});
  for (auto _ : state) {
    context.kernels->gate_up(context.stream(), out.rows(n_rows), input.rows(n_rows), gate.next(),
                             up.next(), gate_out.rows(n_rows), up_out.rows(n_rows));
  }
  set_linear_cost(state, context, format, 2.0 * static_cast<double>(gate.one_bytes()),
                  2 * n_products(layer, n_rows));
}

}  // namespace

void register_linear(const Context& context) {
  for (const FormatRow& format : kFormats) {
    for (const Layer& layer : kLayers) {
      for (const int64_t n_rows : layer.rows) {
        benchmark::RegisterBenchmark(
            fmt::format("linear {} {} {}x{} rows {}", format.name, layer.name, layer.n, layer.k,
                        n_rows)
                .c_str(),
            [&](benchmark::State& state, int64_t rows) {
              run_linear(state, context, layer, format, rows);
            },
            n_rows)
            ->UseRealTime();
      }
    }
    for (const int64_t n_rows : kAllRows) {
      benchmark::RegisterBenchmark(
          fmt::format("gate_up {} 2x{}x{} rows {}", format.name, kGate.n, kGate.k, n_rows).c_str(),
          [&](benchmark::State& state, int64_t rows) { run_gate_up(state, context, format, rows); },
          n_rows)
          ->UseRealTime();
    }
  }
}

}  // namespace trireme::bench
