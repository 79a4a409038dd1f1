#include "model/classifier_head.h"

#include <algorithm>
#include <cstring>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "kernels/f16.h"
#include "kernels/result.h"
#include "kernels/scalar_math.h"
#include "model/model_limits.h"
#include "model/source_model.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = "ForSequenceClassification";
constexpr const char* kHeadTensor = "score.weight";
constexpr int64_t kMaxLabels = 1 << 16;
constexpr size_t kMaxArchitectures = 16;

std::string classifier_name(const ArchSpec& arch) {
  return std::string(arch.hf_name.substr(0, arch.hf_name.find("For"))) + std::string(kSuffix);
}

template <typename T>
void read_as(const SourceTensor& tensor, std::vector<float>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, tensor.data + i * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, float>) {
      out[i] = value;
    } else {
      out[i] = to_float(value);
    }
  }
}

std::vector<float> read_floats(const SourceTensor& tensor, size_t n) {
  std::vector<float> out(n);
  switch (tensor.dtype) {
    case SourceDType::kF32: read_as<float>(tensor, out); break;
    case SourceDType::kF16: read_as<F16>(tensor, out); break;
    case SourceDType::kBF16: read_as<BF16>(tensor, out); break;
    case SourceDType::kOther: TRIREME_CHECK_MSG(false, "a type that is not read");
  }
  return out;
}

// As transformers: what has no name is LABEL_i.
std::vector<std::string> read_labels(const ConfigFields& config, int64_t n_labels) {
  std::vector<std::string> labels;
  const auto names = config.object("id2label");
  for (int64_t i = 0; i < n_labels; ++i) {
    const std::string fallback = fmt::format("LABEL_{}", i);
    labels.push_back(names ? names->string_or(std::to_string(i), fallback) : fallback);
  }
  return labels;
}

}  // namespace

const ArchSpec* find_classifier_base(std::string_view architecture) {
  for (const ArchSpec* arch : kArchitectures) {
    if (architecture == classifier_name(*arch)) return arch;
  }
  return nullptr;
}

std::string classifier_architectures() {
  std::string out;
  for (const ArchSpec* arch : kArchitectures) {
    if (!out.empty()) out += ", ";
    out += classifier_name(*arch);
  }
  return out;
}

bool is_classifier(const ConfigFields& config) {
  const auto names = config.strings("architectures", kMaxArchitectures);
  return !names.empty() && find_classifier_base(names.front()) != nullptr;
}

std::vector<float> ClassifierHead::probabilities(std::span<const float> hidden) const {
  TRIREME_CHECK(weight.size() == labels.size() * hidden.size());
  std::vector<double> scores;
  for (size_t label = 0; label < labels.size(); ++label) {
    const float* row = &weight[label * hidden.size()];
    double sum = 0;
    for (size_t i = 0; i < hidden.size(); ++i)
      sum += static_cast<double>(row[i]) * static_cast<double>(hidden[i]);
    scores.push_back(sum);
  }
  if (scores.size() == 1) scores.push_back(0);  // softmax of a score and 0: its sigmoid
  const double largest = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& score : scores) total += score = portable_exp(score - largest);
  std::vector<float> probabilities;
  for (size_t i = 0; i < labels.size(); ++i)
    probabilities.push_back(static_cast<float>(scores[i] / total));
  return probabilities;
}

std::shared_ptr<const ClassifierHead> load_classifier_head(const ModelPlace& model) {
  const fs::path path = model.folder / "config.json";
  std::error_code code;
  if (!fs::exists(path, code)) return nullptr;
  const nlohmann::json json = read_json_file(path);
  const ConfigFields config(json, path_text(path));
  if (!is_classifier(config)) return nullptr;
  if (!model.packed.empty()) {
    throw EnvironmentError(
        fmt::format("{}: a packed model has no classification head, which {} asks for; serve the "
                    "Hugging Face folder that it was packed from",
                    path_text(model.packed), path_text(path)));
  }
  const SourceModel source(model.folder);
  const SourceTensor* tensor = source.find(kHeadTensor);
  const int64_t hidden_size = config.integer("hidden_size", {1, kMaxHiddenSize});
  const bool fits = tensor != nullptr && tensor->dtype != SourceDType::kOther &&
                    tensor->shape.size() == 2 && tensor->shape[0] >= 1 &&
                    tensor->shape[0] <= kMaxLabels && tensor->shape[1] == hidden_size;
  if (!fits) {
    throw EnvironmentError(fmt::format(
        "{}: tensor \"{}\" of shape [labels, {}] in F32, F16 or BF16, which config.json asks for, "
        "is in no file; correct config.json or download the model again",
        model.folder.string(), kHeadTensor, hidden_size));
  }
  const int64_t n_labels = tensor->shape[0];
  return std::make_shared<ClassifierHead>(
      ClassifierHead{.labels = read_labels(config, n_labels),
                     .weight = read_floats(*tensor, static_cast<size_t>(n_labels * hidden_size))});
}

}  // namespace trireme
