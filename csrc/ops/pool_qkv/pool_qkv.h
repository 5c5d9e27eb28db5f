// q[n, (i, j), :] = qkv[n, i, j, theta]
// k[n, (i, j), :] = max of qkv[n, 2i + 0..1, 2j + 0..1, phi]
// v[n, (i, j), :] = max of qkv[n, 2i + 0..1, 2j + 0..1, g]
//
// One 1x1 convolution's outputs (theta | phi | g) to the arguments of an attention library, keys and values pooled as in BigGAN.
// Rows of q, k and v may be wider than their values; the rest is written as zeros. Exact.
// Callers guarantee shapes and layout (the binding checks); nothing here allocates or synchronises.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct PoolQkvParams {
  int64_t n, h, w;          // h and w even
  int64_t d, e;             // of queries and keys; of values
  int64_t qkv_pixel;        // from a pixel to the next, in elements
  int64_t key_width, value_width;   // of the rows of q and k; of v
};

template <class T>
void pool_qkv_cpu(const T* qkv,   // [n, h, w, d + d + e]
                  T* q,           // [n, h w, key_width]
                  T* k,           // [n, h w / 4, key_width]
                  T* v,           // [n, h w / 4, value_width]
                  const PoolQkvParams& params, int threads);

template <class T> void pool_qkv_cuda(const T* qkv, T* q, T* k, T* v, const PoolQkvParams& params, Stream stream);

}  // namespace di
