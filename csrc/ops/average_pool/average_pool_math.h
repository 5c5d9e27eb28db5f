// The formula, once.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace di::average_pool_math {

DI_HD float mean_of(double sum, int64_t pixels) { return float(sum / double(pixels)); }

}  // namespace di::average_pool_math
