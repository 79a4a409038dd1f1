#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trireme {

// What is told of hidden states. Plain arithmetic in double, in order: the same bits on every host.

bool all_finite(std::span<const float> values);

// The first `dimensions` numbers of a hidden state, and with `normalize` divided by their length
// (zeros stay zeros).
std::vector<float> make_embedding(std::vector<float> hidden, int32_t dimensions, bool normalize);

// Of two vectors of one size; 0 where one has no direction.
double cosine_similarity(std::span<const float> a, std::span<const float> b);

// The numbers as float32 in little-endian order, in base64 (RFC 4648, with padding).
std::string base64_of(std::span<const float> values);

// "[0.1,-2]": the shortest decimals that read back as these numbers, which are finite.
void append_json_list(std::span<const float> values, std::string* out);

}  // namespace trireme
