// out[p, c] = relu(x[p, c] + bias[c] + residual[p, c])      with or without the ReLU; p counts all pixels
//
// What follows a convolution of a residual network. Sums from left to right in float (double of double), then rounds once to T: CPU
// and CUDA agree bit for bit.
// Callers guarantee shapes and layout (the binding checks); nothing here synchronises. Strides are in elements.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct BiasAddReluParams {
  int64_t pixels, c;
  int64_t x_pixel, residual_pixel, out_pixel;   // from a pixel to the next
  bool relu;
};

template <class T>
void bias_add_relu_cpu(const T* x,            // [pixels, c]
                       const Wide<T>* bias,   // [c]
                       const T* residual,     // [pixels, c], or null
                       T* out,                // [pixels, c], may be x or residual
                       const BiasAddReluParams& params, int threads);

template <class T>
void bias_add_relu_cuda(const T* x, const float* bias, const T* residual, T* out, const BiasAddReluParams& params, Stream stream);

}  // namespace di
