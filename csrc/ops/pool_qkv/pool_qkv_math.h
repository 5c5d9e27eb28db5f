// The maximum, once. A NaN wins, as in torch.
#pragma once

#include "core/host_device.h"

namespace di::pool_qkv_math {

template <class V> DI_HD V larger(V a, V b) { return a > b || a != a ? a : b; }

template <class V> DI_HD V largest(V a, V b, V c, V d) { return larger(larger(a, b), larger(c, d)); }

}  // namespace di::pool_qkv_math
