// The formulas, once. What is absent is a zero: x + 0 is x (and -0 becomes 0, on both sides).
#pragma once

#include "core/host_device.h"
#include "core/relu.h"

namespace di::add_upsampled_cbn_relu_math {

template <class V> DI_HD V add(V conv, V shortcut, V bias) { return conv + shortcut + bias; }

template <class V> DI_HD V scale_shift_relu(V y, V scale, V shift) { return relu(scale * y + shift); }

}  // namespace di::add_upsampled_cbn_relu_math
