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

const Layer kLayers[] = {
    {"query", kHeads* kHeadDim, kHidden, kLeaves, false, {1, 2, 8, 16, 96, 512}},
    {"key", kKvHeads* kHeadDim, kHidden, kKvHeads, false, {1, 16, 512}},
    {"output", kHidden, kHeads* kHeadDim, kLeaves, true, {1, 16, 512}},
    {"gate", kIntermediate, kHidden, kLeaves, false, {1, 2, 8, 16, 96, 512}},
    {"down", kHidden, kIntermediate, kLeaves, true, {1, 2, 8, 16, 96, 512}},
    {"head", kVocab, kHidden, div_ceil(kVocab, kVocabSumChunk), false, {1, 16}},
};

int32_t block_n(const Layer& layer, int32_t block) {
  if (layer.row_parallel) return layer.n;
  const int32_t most = div_ceil(layer.n, layer.n_blocks);
  return std::min(most, layer.n - block * most);
}

// Copies of one layer's weight, enough that each is used from memory and not from a cache.
class ColdWeights {
 public:
  ColdWeights(const Layer& layer, WeightFormat format)
      : one_bytes_(bytes_of(layer, format)),
        n_copies_(std::max<size_t>(1, div_ceil(kColdBytes, one_bytes_))),
        memory_(one_bytes_ * n_copies_, {}, "the weights of a benchmark") {
    fill_with_numbers(memory_.data(), memory_.size_bytes());
    auto* next = static_cast<std::byte*>(memory_.data());
    blocks_.resize(n_copies_);
    for (std::vector<WeightBlock>& blocks : blocks_) {
      for (int32_t i = 0; i < layer.n_blocks; ++i) {
        WeightBlock block;
        block.data = next;
        block.n = block_n(layer, i);
        block.k = layer.row_parallel ? layer.k / layer.n_blocks : layer.k;
        block.out_begin = layer.row_parallel ? 0 : i * block_n(layer, 0);
        block.k_begin = layer.row_parallel ? i * block.k : 0;
        blocks.push_back(block);
        next += packed_block_bytes(format, block.n, block.k);
      }
      weights_.push_back({format, {}, blocks, layer.n, layer.k});
    }
  }

  const Weight& next() { return weights_[use_++ % n_copies_]; }
  size_t one_bytes() const { return one_bytes_; }

 private:
  static size_t bytes_of(const Layer& layer, WeightFormat format) {
    int64_t bytes = 0;
    for (int32_t i = 0; i < layer.n_blocks; ++i) {
      const int32_t k = layer.row_parallel ? layer.k / layer.n_blocks : layer.k;
      bytes += packed_block_bytes(format, block_n(layer, i), k);
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

void run_linear(benchmark::State& state, const Context& context, const Layer& layer,
                const FormatRow& format, int64_t n_rows) {
  ColdWeights weights(layer, format.format);
  const GemmRows x(context, n_rows, layer.k, format.input);
  Floats out({1, n_rows, layer.n});
  const Tensor flat = make_tensor(out.memory.data(), DType::kF32, {n_rows, layer.n});
  const std::vector<TreeNode> all = {{0, kLeaves}};
  for (auto _ : state) {
    if (layer.row_parallel) {
      context.kernels->linear_tree(context.stream(), out.tensor, x.tensor, weights.next(), 0, all);
    } else {
      context.kernels->linear(context.stream(), flat, x.tensor, weights.next());
    }
  }
  const double n_products =
      static_cast<double>(n_rows) * static_cast<double>(layer.n) * static_cast<double>(layer.k);
  set_cost(state, context,
           {.bytes = static_cast<double>(weights.one_bytes()),
            .operations = 2 * n_products,
            .arithmetic = (context.peaks.*format.arithmetic).of(context.n_threads)});
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
  }
}

}  // namespace trireme::bench
