#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "comm/control/step_plan.h"

// Private to coordinator/journal: columns of the file, little-endian.

namespace trireme {

std::vector<std::byte> ids_blob(const std::vector<int32_t>& ids);
std::vector<std::byte> floats_blob(const std::vector<float>& values);
// For each token a count of one byte, then so many pairs of id and float32.
std::vector<std::byte> tops_blob(const std::vector<std::vector<TokenLogprob>>& tops);

// For each prompt its length, then so many ids.
std::vector<std::byte> prompts_blob(const std::vector<std::vector<int32_t>>& prompts);

// None: it is not the form above.
std::optional<std::vector<int32_t>> read_ids(std::span<const std::byte> blob);
std::optional<std::vector<float>> read_floats(std::span<const std::byte> blob);
std::optional<std::vector<std::vector<TokenLogprob>>> read_tops(std::span<const std::byte> blob);
std::optional<std::vector<std::vector<int32_t>>> read_prompts(std::span<const std::byte> blob);

}  // namespace trireme
