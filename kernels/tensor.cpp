#include "kernels/tensor.h"

namespace trireme {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "float32";
    case DType::kBF16: return "bfloat16";
    case DType::kI32: return "int32";
    case DType::kI8: return "int8";
  }
  TRIREME_CHECK_MSG(false, "unknown dtype");
  return "";
}

}  // namespace trireme
