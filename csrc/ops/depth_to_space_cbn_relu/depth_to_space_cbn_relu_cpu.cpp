#include <algorithm>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "depth_to_space_cbn_relu.h"
#include "depth_to_space_cbn_relu_math.h"

namespace di {

using namespace depth_to_space_cbn_relu_math;

namespace {

// One row of pixels of one phase: every second pixel of an output row.
template <class T>
DI_CLONES void phase_row(const T* __restrict__ z, const Wide<T>* __restrict__ scale, const Wide<T>* __restrict__ shift, T* __restrict__ out,
                         int64_t w, int64_t c, int64_t z_step, int64_t out_step) {
  for (int64_t j = 0; j < w; ++j, z += z_step, out += out_step)
    for (int64_t o = 0; o < c; ++o) out[o] = narrow<T>(scale_shift_relu(load(z[o]), scale[o], shift[o]));
}

}  // namespace

template <class T>
void depth_to_space_cbn_relu_cpu(const T* z, const Wide<T>* scale, const Wide<T>* shift, T* out, const DepthToSpaceCbnReluParams& params,
                                 int threads) {
  const int64_t h = params.h, w = params.w, c = params.c;
  parallel_for(params.n * 2 * h, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, 2 * w * c)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const int64_t n = y / (2 * h), i = y % (2 * h) / 2;
      const T* cells = z + (n * (h + 1) + i) * (w + 1) * params.z_pixel;
      for (int q = 0; q < 2; ++q)
        phase_row(cells + phase_offset(int(y % 2), q, w, c, params.z_pixel), scale + n * params.scale_row, shift + n * params.shift_row,
                  out + (y * 2 * w + q) * params.out_pixel, w, c, params.z_pixel, 2 * params.out_pixel);
    }
  });
}

#define DI_INSTANTIATE(T) \
  template void depth_to_space_cbn_relu_cpu(const T*, const Wide<T>*, const Wide<T>*, T*, const DepthToSpaceCbnReluParams&, int);
DI_INSTANTIATE(float)
DI_INSTANTIATE(double)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
