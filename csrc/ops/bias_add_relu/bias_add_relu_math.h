// The formula, once. No residual is a zero: x + 0 is x (and -0 becomes 0, on both sides).
#pragma once

#include "core/host_device.h"
#include "core/relu.h"

namespace di::bias_add_relu_math {

template <class V> DI_HD V finish(V x, V bias, V residual, bool with_relu) {
  const V sum = x + bias + residual;
  return with_relu ? relu(sum) : sum;
}

}  // namespace di::bias_add_relu_math
