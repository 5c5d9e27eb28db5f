// The maximum, once. A NaN wins, as in torch.
#pragma once

#include "core/host_device.h"

namespace di::pool_qkv_math {

// In two steps: GCC makes no vectors of one condition with an "or".
template <class V> DI_HD V larger(V a, V b) {
  const V number = a > b ? a : b;
  return a != a ? a : number;
}

template <class V> DI_HD V largest(V a, V b, V c, V d) { return larger(larger(a, b), larger(c, d)); }

}  // namespace di::pool_qkv_math
