// mean[n, c] = sum over pixels of x[n, pixel, c] / pixels
//
// The end of a residual network; unit_rows in place makes features of it. Sums in double, pixel after pixel, and rounds once to float:
// CPU and CUDA agree bit for bit.
// Callers guarantee shapes and layout (the binding checks); nothing here synchronises. Strides are in elements.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct AveragePoolParams {
  int64_t n, pixels, c;   // pixels of an image: at least 1
  int64_t x_pixel;        // from a pixel to the next
};

template <class T>
void average_pool_cpu(const T* x,    // [n, pixels, c]
                      float* mean,   // [n, c]
                      const AveragePoolParams& params, int threads);

template <class T> void average_pool_cuda(const T* x, float* mean, const AveragePoolParams& params, Stream stream);

}  // namespace di
