#pragma once

#include <optional>
#include <string>

#include "coordinator/http/http_request_head.h"
#include "coordinator/http/http_server.h"
#include "coordinator/http/router.h"

// Private to coordinator/http: includes Boost.

namespace trireme {

// Why a request may not go on, by its head alone; or nothing, and the name of the key it showed.
std::optional<ApiError> check_access(const RequestHead& head, const Router& router,
                                     const HttpAccess& access, std::string* key_name);

}  // namespace trireme
