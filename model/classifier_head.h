#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/arch_spec.h"
#include "model/packed_folder.h"

namespace trireme {

// Of "LlamaForSequenceClassification" and the like, a decoder with a classification head in place
// of lm_head: the row of its decoder. Null: there is no such architecture.
const ArchSpec* find_classifier_base(std::string_view architecture);
// "LlamaForSequenceClassification, ..."
std::string classifier_architectures();
// Whether a config.json names one of them.
bool is_classifier(const ConfigFields& config);

// The head of such a model: one score for each label, of the hidden state after the last token. It
// is small, and the same on every layout because it is computed where the hidden states arrive.
struct ClassifierHead {
  std::vector<std::string> labels;  // [n_labels], by config.json's id2label
  std::vector<float> weight;        // [n_labels, hidden_size]

  int32_t n_labels() const { return static_cast<int32_t>(labels.size()); }
  // softmax(weight @ hidden), as transformers' pipelines; of one label, the sigmoid of its score.
  // hidden [hidden_size] -> [n_labels]
  std::vector<float> probabilities(std::span<const float> hidden) const;
};

// Null: the model is none of those. Throws EnvironmentError.
std::shared_ptr<const ClassifierHead> load_classifier_head(const ModelPlace& model);

}  // namespace trireme
