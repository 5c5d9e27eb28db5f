// y[n, i, j, c] = conv[n, i, j, c] + shortcut[n, i / 2, j / 2, c] + bias[c]
// a[n, i, j, c] = relu(scale[c] * y[n, i, j, c] + shift[c]), and 0 outside the image
// out[n, i, j, o] = tanh(out_bias[o] + sum over c, u, v of weight[o, c, u, v] * a[n, i + u - 1, j + v - 1, c])      o in {0, 1, 2}
//
// The end of the generator: residual sum, batch norm, ReLU, the 3x3 convolution to colours, tanh, in one pass over the widest
// activation. In float (double of double): y from left to right, product and sum of a rounded apart, the convolution's sum begun at
// out_bias with one fused multiply-add a term, in the order c, u, v; tanh within 2e-7 (1e-15) of exact; one rounding to O. CPU and CUDA
// agree bit for bit.
// Callers guarantee shapes and layout (the binding checks); the CUDA side allocates nothing. Strides are in elements.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct TailParams {
  int64_t n, h, w, c;                     // h and w even where there is a shortcut
  int64_t conv_pixel, shortcut_pixel;     // from a pixel to the next
};

template <class T, class O> struct TailTensors {
  const T* conv;                       // [n, h, w, c]
  const T* shortcut;                   // [n, h / 2, w / 2, c], or null
  const Wide<T>* bias;                 // [c], or null
  const Wide<T>*scale, *shift;         // [c]
  const Wide<T>* weight;               // [3, c, 3, 3]
  const Wide<T>* out_bias;             // [3]
  O* out;                              // [n, h, w, 3], apart from all the others
};

template <class T, class O> void tail_cpu(const TailTensors<T, O>& tensors, const TailParams& params, int threads);

template <class T, class O> void tail_cuda(const TailTensors<T, O>& tensors, const TailParams& params, Stream stream);

}  // namespace di
