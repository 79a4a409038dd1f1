#include "coordinator/http/infer_tensor.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "coordinator/http/json_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLengthBytes = 4;  // before each of BYTES

// ---- values of a type ----

template <typename T>
Json decode_number(const char* bytes) {
  T number;
  std::memcpy(&number, bytes, sizeof number);
  return number;
}

Json decode_bool(const char* bytes) { return *bytes != 0; }

template <typename T>
void encode_number(const Json& value, std::string* out) {
  const T number = value.get<T>();
  out->append(reinterpret_cast<const char*>(&number), sizeof number);
}

void encode_bool(const Json& value, std::string* out) { out->push_back(value.get<bool>() ? 1 : 0); }

void encode_string(const Json& value, std::string* out) {
  const auto& text = value.get_ref<const std::string&>();
  const auto n_bytes = static_cast<uint32_t>(text.size());
  out->append(reinterpret_cast<const char*>(&n_bytes), kLengthBytes);
  *out += text;
}

bool is_bool(const Json& value) { return value.is_boolean(); }
bool is_string(const Json& value) { return value.is_string(); }

template <typename T>
bool is_integer(const Json& value) {
  if (value.is_number_unsigned()) return std::in_range<T>(value.get<uint64_t>());
  return value.is_number_integer() && std::in_range<T>(value.get<int64_t>());
}

bool is_fp32(const Json& value) {
  return value.is_number() && std::abs(value.get<double>()) <= std::numeric_limits<float>::max();
}

struct TypeRow {
  const char* name;
  size_t size_bytes;            // of a value in binary; 0: each says its own
  bool (*takes)(const Json&);   // of a value in JSON
  Json (*decode)(const char*);  // from size_bytes
  void (*encode)(const Json&, std::string*);
};

constexpr std::array<TypeRow, 7> kTypes = {{
    {"BOOL", 1, is_bool, decode_bool, encode_bool},
    {"INT32", 4, is_integer<int32_t>, decode_number<int32_t>, encode_number<int32_t>},
    {"INT64", 8, is_integer<int64_t>, decode_number<int64_t>, encode_number<int64_t>},
    {"UINT32", 4, is_integer<uint32_t>, decode_number<uint32_t>, encode_number<uint32_t>},
    {"UINT64", 8, is_integer<uint64_t>, decode_number<uint64_t>, encode_number<uint64_t>},
    {"FP32", 4, is_fp32, decode_number<float>, encode_number<float>},
    {"BYTES", 0, is_string, nullptr, encode_string},
}};

const TypeRow& row_of(TensorType type) { return kTypes[static_cast<size_t>(type)]; }

bool is_utf8(const Json& text) {
  try {
    (void)text.dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

// ---- one input ----

// Reads one after another; what is left of the binary part and of the values there may be.
class TensorReader {
 public:
  explicit TensorReader(std::string_view binary) : binary_(binary) {}

  Result<Tensor> read(const Json& input, size_t index) {
    const std::string prefix = fmt::format("inputs[{}].", index);
    JsonFields fields(input, prefix);
    Tensor tensor;
    tensor.name = fields.string("name", "");
    if (tensor.name.empty() || tensor.name.size() > kMaxTensorNameBytes) {
      fields.fail("name", fmt::format("{}name must be a string of 1 to {} bytes", prefix,
                                      kMaxTensorNameBytes));
    }
    const int64_t n_values = read_form(fields, prefix, &tensor);
    const Json* parameters = fields.object("parameters");
    if (fields.error()) return *fields.error();
    const std::optional<Error> error = parameters == nullptr || parameters->empty()
                                           ? read_data(fields, prefix, n_values, &tensor)
                                           : read_binary(*parameters, prefix, n_values, &tensor);
    if (error) return *error;
    if (parameters != nullptr && !parameters->empty() && fields.has("data")) {
      return Error{prefix + "data must not be given beside parameters.binary_data_size", "inputs"};
    }
    return tensor;
  }

  size_t n_left_bytes() const { return binary_.size(); }

 private:
  // datatype and shape; how many values they are.
  int64_t read_form(JsonFields& fields, const std::string& prefix, Tensor* tensor) {
    const std::string type = fields.string("datatype", "");
    size_t row = 0;
    while (row < kTypes.size() && type != kTypes[row].name) ++row;
    if (row == kTypes.size()) {
      fields.fail("datatype", fmt::format("{}datatype must be BOOL, INT32, INT64, UINT32, UINT64, "
                                          "FP32 or BYTES, not {}",
                                          prefix, shown(Json(type))));
      return 0;
    }
    tensor->type = static_cast<TensorType>(row);
    const Json* shape = fields.value("shape");
    int64_t n_values = 1;
    bool good =
        shape != nullptr && shape->is_array() && !shape->empty() && shape->size() <= kMaxTensorRank;
    for (size_t i = 0; good && i < shape->size(); ++i) {
      const Json& size = (*shape)[i];
      good = is_integer<int64_t>(size) && size.get<int64_t>() >= 1 &&
             size.get<int64_t>() <= n_left_values_ / n_values;
      if (!good) break;
      tensor->shape.push_back(size.get<int64_t>());
      n_values *= tensor->shape.back();
    }
    if (!good) {
      fields.fail("shape", fmt::format("{}shape must be a list of 1 to {} sizes, each at least 1, "
                                       "and all tensors together may have {} values",
                                       prefix, kMaxTensorRank, kMaxTensorValues));
      return 0;
    }
    n_left_values_ -= n_values;
    return n_values;
  }

  static std::optional<Error> read_data(const JsonFields& fields, const std::string& prefix,
                                        int64_t n_values, Tensor* tensor) {
    const Json* data = fields.value("data");
    if (data == nullptr || !data->is_array()) {
      return Error{prefix +
                       "data must be a list, or parameters.binary_data_size say where the "
                       "values are",
                   "inputs"};
    }
    tensor->values = Json::array();
    flatten(*data, &tensor->values);
    if (static_cast<int64_t>(tensor->values.size()) != n_values) {
      return Error{fmt::format("{}data has {} values, and its shape says {}", prefix,
                               tensor->values.size(), n_values),
                   "inputs"};
    }
    const TypeRow& type = row_of(tensor->type);
    for (const Json& value : tensor->values) {
      if (type.takes(value)) continue;
      return Error{
          fmt::format("{}data has {}, which is no value of {}", prefix, shown(value), type.name),
          "inputs"};
    }
    return std::nullopt;
  }

  // Lists in lists are no deeper than parse_json_body takes them.
  static void flatten(const Json& data, Json* values) {
    for (const Json& item : data) {
      if (item.is_array()) {
        flatten(item, values);
      } else {
        values->push_back(item);
      }
    }
  }

  std::optional<Error> read_binary(const Json& parameters, const std::string& prefix,
                                   int64_t n_values, Tensor* tensor) {
    for (const auto& [name, value] : parameters.items()) {
      if (name == "binary_data_size") continue;
      return Error{fmt::format("{}parameters has {}, which is not supported; send the values with "
                               "the request",
                               prefix, shown(Json(name))),
                   "inputs"};
    }
    JsonFields fields(parameters, prefix + "parameters.");
    const auto n_bytes = static_cast<size_t>(
        fields.integer("binary_data_size", 0, 0, static_cast<int64_t>(binary_.size())));
    if (fields.error()) {
      return Error{fmt::format("{}, the bytes left behind the JSON", fields.error()->message),
                   "inputs"};
    }
    const std::string_view bytes = binary_.substr(0, n_bytes);
    binary_.remove_prefix(n_bytes);
    tensor->values = Json::array();
    const TypeRow& type = row_of(tensor->type);
    if (type.size_bytes == 0) return read_strings(bytes, prefix, n_values, &tensor->values);
    if (n_bytes != static_cast<size_t>(n_values) * type.size_bytes) {
      return Error{fmt::format("{}parameters.binary_data_size is {}, and {} values of {} are {} "
                               "bytes",
                               prefix, n_bytes, n_values, type.name, n_values * type.size_bytes),
                   "inputs"};
    }
    for (size_t at = 0; at < n_bytes; at += type.size_bytes)
      tensor->values.push_back(type.decode(bytes.data() + at));
    return std::nullopt;
  }

  static std::optional<Error> read_strings(std::string_view bytes, const std::string& prefix,
                                           int64_t n_values, Json* values) {
    const auto wrong = [&](std::string_view what) {
      return Error{fmt::format("{}parameters.binary_data_size: its bytes must be {} strings with a "
                               "length of 4 bytes before each, but {}",
                               prefix, n_values, what),
                   "inputs"};
    };
    for (int64_t i = 0; i < n_values; ++i) {
      uint32_t n_bytes = 0;
      if (bytes.size() < kLengthBytes) return wrong(fmt::format("they end in number {}", i));
      std::memcpy(&n_bytes, bytes.data(), kLengthBytes);
      bytes.remove_prefix(kLengthBytes);
      if (n_bytes > bytes.size()) return wrong(fmt::format("they end in number {}", i));
      values->push_back(std::string(bytes.substr(0, n_bytes)));
      if (!is_utf8(values->back())) return wrong(fmt::format("number {} is no UTF-8", i));
      bytes.remove_prefix(n_bytes);
    }
    if (!bytes.empty()) return wrong(fmt::format("{} bytes are left", bytes.size()));
    return std::nullopt;
  }

  std::string_view binary_;
  int64_t n_left_values_ = kMaxTensorValues;
};

}  // namespace

const char* tensor_type_name(TensorType type) { return row_of(type).name; }

Result<std::vector<Tensor>> read_tensors(const Json& inputs, std::string_view binary) {
  if (!inputs.is_array() || inputs.empty() || inputs.size() > kMaxTensors) {
    return Error{
        fmt::format("inputs must be a list of 1 to {} tensors, not {}", kMaxTensors, shown(inputs)),
        "inputs"};
  }
  TensorReader reader(binary);
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].is_object()) {
      return Error{fmt::format("inputs[{}] must be an object, not {}", i, shown(inputs[i])),
                   "inputs"};
    }
    Result<Tensor> tensor = reader.read(inputs[i], i);
    if (!tensor) return tensor.error();
    tensors.push_back(*std::move(tensor));
  }
  if (reader.n_left_bytes() > 0) {
    return Error{fmt::format("{} bytes behind the JSON belong to no input", reader.n_left_bytes()),
                 "inputs"};
  }
  return tensors;
}

void append_binary(const Tensor& tensor, std::string* out) {
  for (const Json& value : tensor.values) row_of(tensor.type).encode(value, out);
}

}  // namespace trireme
