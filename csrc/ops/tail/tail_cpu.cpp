#include <algorithm>
#include <vector>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "tail.h"
#include "tail_math.h"

namespace di {

using namespace tail_math;

namespace {

// Pixels are the vector's lanes: of each of the three activated rows under an output row there is a plane a channel, with a zero left
// of the image and zeros right of it, up to a whole number of blocks.
constexpr int64_t kBlock = 32;
constexpr int64_t kTurned = 16;   // pixels that are turned from channels-last to planes at a time

template <class T> struct RowSource {
  const T *conv, *shortcut;   // shortcut may be null
  const Wide<T>*bias, *scale, *shift;
};

// turned: room for kTurned pixels.
template <class T>
DI_CLONES void activate_row(const RowSource<T>& row, const TailParams& params, Wide<T>* __restrict__ turned, Wide<T>* __restrict__ planes,
                            int64_t pitch) {
  using V = Wide<T>;
  const int64_t c = params.c;
  const T *__restrict__ conv = row.conv, *__restrict__ shortcut = row.shortcut;
  const V *__restrict__ bias = row.bias, *__restrict__ scale = row.scale, *__restrict__ shift = row.shift;
  for (int64_t x = 0; x < params.w; x += kTurned) {
    const int64_t count = std::min(kTurned, params.w - x);
    for (int64_t i = 0; i < count; ++i, conv += params.conv_pixel) {
      V* to = turned + i * c;
      if (shortcut) {
        for (int64_t o = 0; o < c; ++o) to[o] = scale_shift_relu(add(load(conv[o]), load(shortcut[o]), bias[o]), scale[o], shift[o]);
        if (i % 2) shortcut += params.shortcut_pixel;   // kTurned is even
      } else {
        for (int64_t o = 0; o < c; ++o) to[o] = scale_shift_relu(add(load(conv[o]), V(0), bias[o]), scale[o], shift[o]);
      }
    }
    V* to = planes + 1 + x;
    if (count == kTurned) for (int64_t o = 0; o < c; ++o) for (int64_t i = 0; i < kTurned; ++i) to[o * pitch + i] = turned[i * c + o];
    else for (int64_t o = 0; o < c; ++o) for (int64_t i = 0; i < count; ++i) to[o * pitch + i] = turned[i * c + o];
  }
}

// kBlock pixels of the three colours, before tanh. weight: [c, 3, 3, colour].
template <class V>
DI_CLONES void convolve_block(const V* above, const V* middle, const V* below, int64_t pitch, const V* weight, const V* bias, int64_t c,
                              V* __restrict__ out) {
  V red[kBlock], green[kBlock], blue[kBlock];
  for (int x = 0; x < kBlock; ++x) red[x] = bias[0], green[x] = bias[1], blue[x] = bias[2];
  for (int64_t o = 0; o < c; ++o) {
    const V* const row[3] = {above + o * pitch, middle + o * pitch, below + o * pitch};
#pragma GCC unroll 3
    for (int u = 0; u < 3; ++u)
#pragma GCC unroll 3
      for (int v = 0; v < 3; ++v, weight += 3) {
        const V* a = row[u] + v;
        const V r = weight[0], g = weight[1], b = weight[2];
        for (int x = 0; x < kBlock; ++x) {
          red[x] = fused(r, a[x], red[x]);
          green[x] = fused(g, a[x], green[x]);
          blue[x] = fused(b, a[x], blue[x]);
        }
      }
  }
  for (int x = 0; x < kBlock; ++x) out[x] = red[x], out[kBlock + x] = green[x], out[2 * kBlock + x] = blue[x];
}

template <class V, class O> DI_CLONES void finish_block(V* __restrict__ colours, O* __restrict__ out, int64_t count) {
  for (int i = 0; i < 3 * kBlock; ++i) colours[i] = tanh_by_exp(colours[i]);
  for (int64_t x = 0; x < count; ++x)
    for (int o = 0; o < 3; ++o) {
      if constexpr (sizeof(O) == sizeof(double)) out[3 * x + o] = colours[o * kBlock + x];
      else out[3 * x + o] = store<O>(colours[o * kBlock + x]);
    }
}

// The activated rows that three neighbouring output rows share, made when they are first asked for.
template <class T, class O> class ActivatedRows {
  using V = Wide<T>;

 public:
  ActivatedRows(const TailTensors<T, O>& tensors, const TailParams& params, const V* bias)
      : pitch((params.w + kBlock - 1) / kBlock * kBlock + 2), tensors_(tensors), params_(params), bias_(bias), planes_(3 * params.c * pitch),
        zeros_(params.c * pitch), turned_(kTurned * params.c) {}

  // The planes of row i of image n; zeros outside the image.
  const V* row(int64_t n, int64_t i) {
    if (i < 0 || i >= params_.h) return zeros_.data();
    const int64_t index = n * params_.h + i;
    V* planes = planes_.data() + index % 3 * params_.c * pitch;
    if (held_[index % 3] != index) {
      const int64_t half = (n * (params_.h / 2) + i / 2) * (params_.w / 2);
      activate_row(RowSource<T>{tensors_.conv + index * params_.w * params_.conv_pixel,
                                tensors_.shortcut ? tensors_.shortcut + half * params_.shortcut_pixel : nullptr, bias_, tensors_.scale,
                                tensors_.shift},
                   params_, turned_.data(), planes, pitch);
      held_[index % 3] = index;
    }
    return planes;
  }

  const int64_t pitch;   // from a plane to the next

 private:
  const TailTensors<T, O>& tensors_;
  const TailParams& params_;
  const V* bias_;
  std::vector<V> planes_, zeros_, turned_;
  int64_t held_[3] = {-1, -1, -1};
};

}  // namespace

template <class T, class O> void tail_cpu(const TailTensors<T, O>& tensors, const TailParams& params, int threads) {
  using V = Wide<T>;
  const int64_t h = params.h, w = params.w, c = params.c;
  std::vector<V> weight(27 * c);
  for (int64_t o = 0; o < 3; ++o)
    for (int64_t i = 0; i < 9 * c; ++i) weight[3 * i + o] = tensors.weight[o * 9 * c + i];
  const std::vector<V> zeros(c);
  const V* bias = tensors.bias ? tensors.bias : zeros.data();
  // A range activates two rows beside its own.
  parallel_for(params.n * h, 16, threads, [&](int64_t begin, int64_t end) {
    ActivatedRows<T, O> rows(tensors, params, bias);
    V colours[3 * kBlock];
    for (int64_t index = begin; index < end; ++index) {
      const int64_t n = index / h, i = index % h;
      const V *above = rows.row(n, i - 1), *middle = rows.row(n, i), *below = rows.row(n, i + 1);
      for (int64_t x = 0; x < w; x += kBlock) {
        convolve_block(above + x, middle + x, below + x, rows.pitch, weight.data(), tensors.out_bias, c, colours);
        finish_block(colours, tensors.out + (index * w + x) * 3, std::min(kBlock, w - x));
      }
    }
  });
}

#define DI_INSTANTIATE(T, O) template void tail_cpu(const TailTensors<T, O>&, const TailParams&, int);
DI_INSTANTIATE(float, float) DI_INSTANTIATE(float, Half) DI_INSTANTIATE(float, BFloat16)
DI_INSTANTIATE(Half, float) DI_INSTANTIATE(Half, Half) DI_INSTANTIATE(Half, BFloat16)
DI_INSTANTIATE(BFloat16, float) DI_INSTANTIATE(BFloat16, Half) DI_INSTANTIATE(BFloat16, BFloat16)
DI_INSTANTIATE(double, double)

}  // namespace di
