// The formula, and where its argument lies, once.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/relu.h"

namespace di::depth_to_space_cbn_relu_math {

template <class V> DI_HD V scale_shift_relu(V z, V scale, V shift) { return relu(scale * z + shift); }

// From z[n, i, j, 0] to the first channel of what becomes the pixel of phase (p, q).
DI_HD int64_t phase_offset(int p, int q, int64_t w, int64_t c, int64_t z_pixel) { return (p * (w + 1) + q) * z_pixel + (2 * p + q) * c; }

}  // namespace di::depth_to_space_cbn_relu_math
