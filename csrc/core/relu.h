// max(x, 0), in which a NaN stays one.
#pragma once

#include "host_device.h"

namespace di {

template <class V> DI_HD V relu(V x) { return 0 > x ? V(0) : x; }

}  // namespace di
