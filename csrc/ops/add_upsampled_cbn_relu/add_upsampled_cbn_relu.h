// y[n, i, j, o] = conv[n, i, j, o] + shortcut[n, i / 2, j / 2, o] + bias[o]
// a[n, i, j, o] = relu(scale[n, o] * y[n, i, j, o] + shift[n, o])
//
// The end of a residual block and the beginning of the next: the shortcut is upsampled (nearest) while it is added, and what the
// next block's first convolution reads is made from the sum before it is rounded. Sums from left to right, product and sum rounded
// apart, in float (double of double); each result rounds once to T: CPU and CUDA agree bit for bit.
// Callers guarantee shapes and layout (the binding checks); nothing here synchronises. Strides are in elements.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

enum class Shortcut { none, half, full };   // half: upsampled; full: of conv's own size

struct AddUpsampledCbnReluParams {
  int64_t n, h, w, c;   // of conv; h and w even
  Shortcut kind;
  int64_t conv_pixel, shortcut_pixel, y_pixel, a_pixel;   // from a pixel to the next
  int64_t scale_row, shift_row;                           // from an image's to the next one's
};

template <class T> struct AddUpsampledCbnReluTensors {
  const T* conv;                         // [n, h, w, c]
  const T* shortcut;                     // [n, h / 2, w / 2, c], or [n, h, w, c], or null
  const Wide<T>* bias;                   // [c], or null
  const Wide<T>*scale, *shift;           // [n, c], or null where a is
  T *y, *a;                              // [n, h, w, c], or null; apart from all the others
};

template <class T>
void add_upsampled_cbn_relu_cpu(const AddUpsampledCbnReluTensors<T>& tensors, const AddUpsampledCbnReluParams& params, int threads);

template <class T>
void add_upsampled_cbn_relu_cuda(const AddUpsampledCbnReluTensors<T>& tensors, const AddUpsampledCbnReluParams& params, Stream stream);

}  // namespace di
