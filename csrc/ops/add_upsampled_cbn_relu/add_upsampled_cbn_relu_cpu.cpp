#include <algorithm>
#include <vector>

#include "add_upsampled_cbn_relu.h"
#include "add_upsampled_cbn_relu_math.h"
#include "core/clones.h"
#include "core/thread_pool.h"

namespace di {

using namespace add_upsampled_cbn_relu_math;

namespace {

// One row of pixels. sum: room for a pixel.
template <class T>
DI_CLONES void add_row(AddUpsampledCbnReluTensors<T> row, const AddUpsampledCbnReluParams& params, Wide<T>* __restrict__ sum) {
  using V = Wide<T>;
  const int64_t c = params.c;
  const T *__restrict__ conv = row.conv, *__restrict__ shortcut = row.shortcut;
  const V *__restrict__ bias = row.bias, *__restrict__ scale = row.scale, *__restrict__ shift = row.shift;
  T *__restrict__ y = row.y, *__restrict__ a = row.a;
  for (int64_t j = 0; j < params.w; ++j) {
    if (shortcut) for (int64_t o = 0; o < c; ++o) sum[o] = add(load(conv[o]), load(shortcut[o]), bias[o]);
    else for (int64_t o = 0; o < c; ++o) sum[o] = add(load(conv[o]), V(0), bias[o]);
    conv += params.conv_pixel;
    if (params.kind == Shortcut::full || (params.kind == Shortcut::half && j % 2)) shortcut += params.shortcut_pixel;
    if (y) {
      for (int64_t o = 0; o < c; ++o) y[o] = narrow<T>(sum[o]);
      y += params.y_pixel;
    }
    if (a) {
      for (int64_t o = 0; o < c; ++o) a[o] = narrow<T>(scale_shift_relu(sum[o], scale[o], shift[o]));
      a += params.a_pixel;
    }
  }
}

}  // namespace

template <class T>
void add_upsampled_cbn_relu_cpu(const AddUpsampledCbnReluTensors<T>& tensors, const AddUpsampledCbnReluParams& params, int threads) {
  const int64_t h = params.h, w = params.w, c = params.c;
  const std::vector<Wide<T>> zeros(c);
  parallel_for(params.n * h, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, w * c)), threads, [&](int64_t begin, int64_t end) {
    std::vector<Wide<T>> sum(c);
    for (int64_t i = begin; i < end; ++i) {
      AddUpsampledCbnReluTensors<T> row = tensors;
      const int64_t n = i / h;
      row.conv += i * w * params.conv_pixel;
      if (params.kind == Shortcut::half) row.shortcut += (n * (h / 2) + i % h / 2) * (w / 2) * params.shortcut_pixel;
      if (params.kind == Shortcut::full) row.shortcut += i * w * params.shortcut_pixel;
      if (!row.bias) row.bias = zeros.data();
      if (row.y) row.y += i * w * params.y_pixel;
      if (row.a) row.a += i * w * params.a_pixel, row.scale += n * params.scale_row, row.shift += n * params.shift_row;
      add_row(row, params, sum.data());
    }
  });
}

#define DI_INSTANTIATE(T) \
  template void add_upsampled_cbn_relu_cpu(const AddUpsampledCbnReluTensors<T>&, const AddUpsampledCbnReluParams&, int);
DI_INSTANTIATE(float)
DI_INSTANTIATE(double)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
