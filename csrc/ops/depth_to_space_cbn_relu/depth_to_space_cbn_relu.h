// out[n, 2i + p, 2j + q, o] = relu(scale[n, o] * z[n, i + p, j + q, (p, q, o)] + shift[n, o])      p, q in {0, 1}
//
// What follows a nearest-upsampled 3x3 convolution that was computed as one 2x2 convolution with padding 1 and four times the
// outputs: depth to space, conditional batch norm, ReLU, in one pass. Product and sum round apart, in float (double of double), and
// the result rounds once to T: CPU and CUDA agree bit for bit.
// Callers guarantee shapes and layout (the binding checks); nothing here allocates or synchronises. Strides are in elements.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct DepthToSpaceCbnReluParams {
  int64_t n, h, w, c;                  // of the image before upsampling; the outputs' channels
  int64_t z_pixel, out_pixel;          // from a pixel to the next
  int64_t scale_row, shift_row;        // from an image's to the next one's
};

template <class T>
void depth_to_space_cbn_relu_cpu(const T* z,                              // [n, h + 1, w + 1, 4 c]
                                 const Wide<T>* scale, const Wide<T>* shift,   // [n, c]
                                 T* out,                                  // [n, 2 h, 2 w, c], apart from z
                                 const DepthToSpaceCbnReluParams& params, int threads);

template <class T>
void depth_to_space_cbn_relu_cuda(const T* z, const float* scale, const float* shift, T* out, const DepthToSpaceCbnReluParams& params,
                                  Stream stream);

}  // namespace di
