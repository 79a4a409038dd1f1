#pragma once

#include <string_view>

namespace trireme {

// The description of every endpoint, OpenAPI 3.1: coordinator/http/openapi.yaml as it was built in.
std::string_view openapi_yaml();

}  // namespace trireme
