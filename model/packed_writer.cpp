#include <cstring>
#include <span>
#include <vector>

#include "kernels/check.h"
#include "model/arch_spec.h"
#include "model/atomic_file.h"
#include "model/checksum.h"
#include "model/model_folder.h"
#include "model/pack_block.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/source_model.h"

namespace trireme {
namespace {

// One block as it lies in the file, bias and padding included.
std::vector<std::byte> packed_bytes(const SourceModel& source, const WeightSpec& spec,
                                    const PackedBlock& block, WeightFormat format) {
  std::vector<std::byte> bytes(block.end - block.offset);
  const SourceTensor& tensor = source.tensor(spec.hf_name);
  if (spec.split == Split::kWhole) {
    std::vector<float> values(block.size_bytes / sizeof(float));
    pack_vector(tensor, 0, block.n, values);
    std::memcpy(bytes.data(), values.data(), block.size_bytes);
  } else {
    pack_panels(tensor, block, format, std::span(bytes).first(block.size_bytes));
  }
  if (block.bias_offset != 0) {
    std::vector<float> bias(static_cast<size_t>(n_padded(block.n)));
    pack_vector(source.tensor(spec.hf_bias), block.n_begin, block.n, bias);
    std::memcpy(bytes.data() + (block.bias_offset - block.offset), bias.data(),
                bias.size() * sizeof(float));
  }
  return bytes;
}

}  // namespace

void pack_model(const std::filesystem::path& model_folder, const std::filesystem::path& out,
                WeightFormat format, const std::function<void(uint64_t, uint64_t)>& on_progress) {
  PackedHeader header = make_packed_header(read_model_config(model_folder), format);
  const SourceModel source(model_folder);
  std::vector<WeightSpec> specs;
  for (const PackedTensor& tensor : header.layout.tensors) specs.push_back(tensor.spec);
  source.check(specs);

  // The header's size is known before its checksums are.
  const uint64_t data_begin = write_packed_header(header).size();
  AtomicFile file(out, data_begin + header.layout.data_bytes);
  for (const PackedLayout::BlockId id : header.layout.order) {
    const auto tensor = static_cast<size_t>(id.tensor);
    const PackedBlock& block = header.layout.at(id);
    const std::vector<std::byte> bytes =
        packed_bytes(source, header.layout.tensors[tensor].spec, block, format);
    file.write_at(data_begin + block.offset, bytes);
    header.checksums[tensor][static_cast<size_t>(id.block)] = checksum64(bytes);
    if (on_progress) on_progress(block.end, header.layout.data_bytes);
  }
  const std::string text = write_packed_header(header);
  TRIREME_CHECK(text.size() == data_begin);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace trireme
