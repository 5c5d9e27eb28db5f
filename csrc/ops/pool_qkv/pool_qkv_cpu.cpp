#include <algorithm>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "pool_qkv.h"
#include "pool_qkv_math.h"

namespace di {

using namespace pool_qkv_math;

namespace {

template <class T>
DI_CLONES void pool_row(const T* __restrict__ x, const T* __restrict__ right, const T* __restrict__ below, const T* __restrict__ beyond,
                        T* __restrict__ out, int64_t count) {
  for (int64_t o = 0; o < count; ++o) out[o] = narrow<T>(largest(load(x[o]), load(right[o]), load(below[o]), load(beyond[o])));
}

}  // namespace

template <class T> void pool_qkv_cpu(const T* qkv, T* q, T* k, T* v, const PoolQkvParams& params, int threads) {
  const int64_t d = params.d, e = params.e, w = params.w, rows = params.n * params.h / 2, key = params.key_width, value = params.value_width;
  parallel_for(rows, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, w * (2 * d + e))), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {   // of two rows of pixels
      const T* x = qkv + i * 2 * w * params.qkv_pixel;
      for (int64_t pixel = 0; pixel < 2 * w; ++pixel) {
        T* out = q + (i * 2 * w + pixel) * key;
        std::copy_n(x + pixel * params.qkv_pixel, d, out);
        std::fill(out + d, out + key, T{});
      }
      for (int64_t j = 0; j < w / 2; ++j) {
        const T *corner = x + 2 * j * params.qkv_pixel + d, *below = corner + w * params.qkv_pixel;
        const auto pool = [&](int64_t first, T* out, int64_t count, int64_t width) {
          pool_row(corner + first, corner + params.qkv_pixel + first, below + first, below + params.qkv_pixel + first, out, count);
          std::fill(out + count, out + width, T{});
        };
        pool(0, k + (i * (w / 2) + j) * key, d, key);
        pool(d, v + (i * (w / 2) + j) * value, e, value);
      }
    }
  });
}

#define DI_INSTANTIATE(T) template void pool_qkv_cpu(const T*, T*, T*, T*, const PoolQkvParams&, int);
DI_INSTANTIATE(float)
DI_INSTANTIATE(double)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
