#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/result.h"
#include "model/arch_spec.h"
#include "model/atomic_file.h"
#include "model/checksum.h"
#include "model/model_folder.h"
#include "model/pack_block.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/source_model.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr unsigned kMaxThreads = 64;

// Fills a packed file, one block at a time on each of several threads. Blocks do not depend on each
// other, so their bytes are the same however they are spread.
class BlockPacker {
 public:
  BlockPacker(const SourceModel& source, PackedHeader& header, uint64_t data_begin,
              AtomicFile& file, const std::function<void(uint64_t, uint64_t)>& on_progress)
      : source_(source),
        header_(header),
        data_begin_(data_begin),
        file_(file),
        on_progress_(on_progress) {
    for (const PackedLayout::BlockId id : header.layout.order) {
      total_bytes_ += header.layout.at(id).end - header.layout.at(id).offset;
    }
  }

  // Throws what the first thread that failed threw.
  void run() {
    const unsigned n_threads = std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads);
    std::vector<std::jthread> threads;
    for (unsigned i = 1; i < n_threads; ++i) threads.emplace_back([this] { pack_until_done(); });
    pack_until_done();
    threads.clear();  // joins them
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void pack_until_done() {
    std::vector<std::byte> bytes;
    try {
      for (;;) {
        const size_t i = next_.fetch_add(1);
        if (i >= header_.layout.order.size()) return;
        pack(header_.layout.order[i], bytes);
      }
    } catch (...) {
      next_ = header_.layout.order.size();  // the others end after their present block
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void pack(PackedLayout::BlockId id, std::vector<std::byte>& bytes) {
    const auto tensor = static_cast<size_t>(id.tensor);
    const PackedBlock& block = header_.layout.at(id);
    fill(header_.layout.tensors[tensor], block, bytes);
    file_.write_at(data_begin_ + block.offset, bytes);
    header_.checksums[tensor][static_cast<size_t>(id.block)] = checksum64(bytes);
    const std::lock_guard lock(mutex_);
    done_bytes_ += bytes.size();
    if (on_progress_) on_progress_(done_bytes_, total_bytes_);
  }

  // One block as it lies in the file, bias and padding included.
  void fill(const PackedTensor& packed, const PackedBlock& block, std::vector<std::byte>& bytes) {
    const WeightSpec& spec = packed.spec;
    const SourceTensor& tensor = source_.tensor(spec.hf_name);
    bytes.assign(block.end - block.offset, std::byte{});
    const std::span<std::byte> weight = std::span(bytes).first(block.size_bytes);
    if (spec.split == Split::kWhole) {
      pack_floats(tensor, 0, block.n, weight);
    } else if (const auto fault = pack_panels(tensor, block, packed.encoding, weight)) {
      throw EnvironmentError(fmt::format(
          "{}: tensor \"{}\" holds {} at [{}, {}], which {} cannot; pack it as bfloat16 or float32",
          source_.folder().string(), spec.hf_name, fault->value, fault->n, fault->k,
          weight_format_name(packed.encoding.format)));
    }
    if (block.bias_offset != 0) {
      pack_floats(source_.tensor(spec.hf_bias), block.n_begin, block.n,
                  std::span(bytes).subspan(block.bias_offset - block.offset));
    }
  }

  static void pack_floats(const SourceTensor& tensor, int64_t begin, int64_t count,
                          std::span<std::byte> out) {
    std::vector<float> values(static_cast<size_t>(n_padded(count)));
    pack_vector(tensor, begin, count, values);
    TRIREME_CHECK(out.size() == values.size() * sizeof(float));
    std::memcpy(out.data(), values.data(), out.size());
  }

  const SourceModel& source_;
  PackedHeader& header_;  // checksums: each block's by the thread that packs it
  uint64_t data_begin_;
  AtomicFile& file_;
  const std::function<void(uint64_t, uint64_t)>& on_progress_;
  uint64_t total_bytes_ = 0;
  std::atomic<size_t> next_ = 0;  // index into the layout's order
  std::mutex mutex_;              // of what follows
  uint64_t done_bytes_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

void pack_model(const std::filesystem::path& model_folder, const std::filesystem::path& out,
                const PackedEncodings& encodings,
                const std::function<void(uint64_t, uint64_t)>& on_progress) {
  PackedHeader header = make_packed_header(read_model_config(model_folder), encodings);
  const SourceModel source(model_folder);
  std::vector<WeightSpec> specs;
  for (const PackedTensor& tensor : header.layout.tensors) specs.push_back(tensor.spec);
  source.check(specs);

  // The header's size is known before its checksums are.
  const uint64_t data_begin = write_packed_header(header).size();
  AtomicFile file(out, data_begin + header.layout.data_bytes);
  BlockPacker(source, header, data_begin, file, on_progress).run();
  const std::string text = write_packed_header(header);
  TRIREME_CHECK(text.size() == data_begin);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace trireme
