#include "comm/control/build_id.h"

namespace trireme {

std::string_view build_id() { return TRIREME_VERSION; }

}  // namespace trireme
