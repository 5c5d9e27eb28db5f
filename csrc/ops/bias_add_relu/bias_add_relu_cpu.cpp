#include <algorithm>

#include "bias_add_relu.h"
#include "bias_add_relu_math.h"
#include "core/clones.h"
#include "core/thread_pool.h"

namespace di {

using namespace bias_add_relu_math;

namespace {

// ivdep: where out is x or residual, an element is read before it is written, and no other is.
template <class T>
DI_CLONES void finish_pixels(const T* x, const Wide<T>* bias, const T* residual, T* out, int64_t count, const BiasAddReluParams& params) {
  const int64_t c = params.c;
  const bool with_relu = params.relu;
  for (int64_t p = 0; p < count; ++p, x += params.x_pixel, out += params.out_pixel) {
    if (residual) {
#pragma GCC ivdep
      for (int64_t o = 0; o < c; ++o) out[o] = narrow<T>(finish(load(x[o]), bias[o], load(residual[o]), with_relu));
      residual += params.residual_pixel;
    } else {
#pragma GCC ivdep
      for (int64_t o = 0; o < c; ++o) out[o] = narrow<T>(finish(load(x[o]), bias[o], Wide<T>(0), with_relu));
    }
  }
}

}  // namespace

template <class T>
void bias_add_relu_cpu(const T* x, const Wide<T>* bias, const T* residual, T* out, const BiasAddReluParams& params, int threads) {
  parallel_for(params.pixels, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, params.c)), threads, [&](int64_t begin, int64_t end) {
    finish_pixels(x + begin * params.x_pixel, bias, residual ? residual + begin * params.residual_pixel : nullptr,
                  out + begin * params.out_pixel, end - begin, params);
  });
}

#define DI_INSTANTIATE(T) template void bias_add_relu_cpu(const T*, const Wide<T>*, const T*, T*, const BiasAddReluParams&, int);
DI_INSTANTIATE(float)
DI_INSTANTIATE(double)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
