#include <algorithm>
#include <vector>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "tail.h"
#include "tail_kernels.h"
#include "tail_math.h"

namespace di {

using namespace tail;
using namespace tail_math;

namespace {

template <class V> constexpr KernelSets<Kernels<V>> kSets{};
template <> constexpr KernelSets<Kernels<float>> kSets<float>{{&generic_float, DI_X86(&avx2_float), DI_X86(&avx512_float)}};
template <> constexpr KernelSets<Kernels<double>> kSets<double>{{&generic_double, DI_X86(&avx2_double), DI_X86(&avx512_double)}};

// All sets give the same bits, so the processor's widest is taken.
Instructions widest() {
  for (const Instructions set : {Instructions::avx512, Instructions::avx2})
    if (processor_has(set)) return set;
  return Instructions::generic;
}

template <class T> struct RowSource {
  const T *conv, *shortcut;   // shortcut may be null
  const Wide<T>*bias, *scale, *shift;
};

// `count` pixels from x on, channels-last. x is even.
template <class T>
DI_CLONES void activate(const RowSource<T>& row, const TailParams& params, int64_t x, int64_t count, Wide<T>* __restrict__ activated) {
  using V = Wide<T>;
  const int64_t c = params.c;
  const T* __restrict__ conv = row.conv + x * params.conv_pixel;
  const T* __restrict__ shortcut = row.shortcut ? row.shortcut + x / 2 * params.shortcut_pixel : nullptr;
  const V *__restrict__ bias = row.bias, *__restrict__ scale = row.scale, *__restrict__ shift = row.shift;
  for (int64_t i = 0; i < count; ++i, conv += params.conv_pixel) {
    V* to = activated + i * c;
    if (shortcut) {
      for (int64_t o = 0; o < c; ++o) to[o] = scale_shift_relu(add(load(conv[o]), load(shortcut[o]), bias[o]), scale[o], shift[o]);
      if (i % 2) shortcut += params.shortcut_pixel;
    } else {
      for (int64_t o = 0; o < c; ++o) to[o] = scale_shift_relu(add(load(conv[o]), V(0), bias[o]), scale[o], shift[o]);
    }
  }
}

template <class V, class O> DI_CLONES void finish_block(V* __restrict__ colours, O* __restrict__ out, int64_t count) {
  for (int i = 0; i < 3 * kBlock; ++i) colours[i] = tanh_by_exp(colours[i]);
  for (int64_t x = 0; x < count; ++x)
    for (int o = 0; o < 3; ++o) {
      if constexpr (sizeof(O) == sizeof(double)) out[3 * x + o] = colours[o * kBlock + x];
      else out[3 * x + o] = store<O>(colours[o * kBlock + x]);
    }
}

// The activated rows that neighbouring output rows share, made when they are first asked for.
template <class T, class O> class ActivatedRows {
  using V = Wide<T>;

 public:
  ActivatedRows(const TailTensors<T, O>& tensors, const TailParams& params, const V* bias, const Kernels<V>& kernels)
      : pitch((params.w + kBlock - 1) / kBlock * kBlock + 2), tensors_(tensors), params_(params), bias_(bias), kernels_(kernels),
        planes_(kHeld * params.c * pitch), zeros_(params.c * pitch), turned_(kTurned * params.c) {}

  // The planes of row i of image n; zeros outside the image.
  const V* row(int64_t n, int64_t i) {
    if (i < 0 || i >= params_.h) return zeros_.data();
    const int64_t index = n * params_.h + i;
    V* planes = planes_.data() + index % kHeld * params_.c * pitch;
    if (held_[index % kHeld] != index) {
      const int64_t half = (n * (params_.h / 2) + i / 2) * (params_.w / 2);
      const RowSource<T> source{tensors_.conv + index * params_.w * params_.conv_pixel,
                                tensors_.shortcut ? tensors_.shortcut + half * params_.shortcut_pixel : nullptr, bias_, tensors_.scale,
                                tensors_.shift};
      for (int64_t x = 0; x < params_.w; x += kTurned) {
        const int64_t count = std::min(kTurned, params_.w - x);
        activate(source, params_, x, count, turned_.data());
        V* to = planes + 1 + x;
        if (count == kTurned) kernels_.turn(turned_.data(), params_.c, to, pitch);
        else for (int64_t o = 0; o < params_.c; ++o) for (int64_t j = 0; j < count; ++j) to[o * pitch + j] = turned_[j * params_.c + o];
      }
      held_[index % kHeld] = index;
    }
    return planes;
  }

  const int64_t pitch;   // from a plane to the next

 private:
  const TailTensors<T, O>& tensors_;
  const TailParams& params_;
  const V* bias_;
  const Kernels<V>& kernels_;
  std::vector<V> planes_, zeros_, turned_;
  static constexpr int64_t kHeld = kRows + 2;
  int64_t held_[kHeld] = {-1, -1, -1, -1};
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
  const Kernels<V>& kernels = kSets<V>[widest()];
  // A range activates two rows beside its own.
  parallel_for(params.n * h, 16, threads, [&](int64_t begin, int64_t end) {
    ActivatedRows<T, O> rows(tensors, params, bias, kernels);
    V colours[kRows][3 * kBlock];
    for (int64_t index = begin; index < end;) {
      const int64_t n = index / h, i = index % h, count = std::min({int64_t{kRows}, end - index, h - i});
      const V *planes[kRows + 2], *part[kRows + 2];
      for (int k = 0; k < kRows + 2; ++k) planes[k] = k < count + 2 ? rows.row(n, i - 1 + k) : planes[k - 1];   // what it gives is not used
      for (int64_t x = 0; x < w; x += kBlock) {
        for (int k = 0; k < kRows + 2; ++k) part[k] = planes[k] + x;
        kernels.convolve(part, rows.pitch, weight.data(), tensors.out_bias, c, colours[0]);
        for (int64_t row = 0; row < count; ++row)
          finish_block(colours[row], tensors.out + ((index + row) * w + x) * 3, std::min(kBlock, w - x));
      }
      index += count;
    }
  });
}

#define DI_INSTANTIATE(T, O) template void tail_cpu(const TailTensors<T, O>&, const TailParams&, int);
DI_INSTANTIATE(float, float) DI_INSTANTIATE(float, Half) DI_INSTANTIATE(float, BFloat16)
DI_INSTANTIATE(Half, float) DI_INSTANTIATE(Half, Half) DI_INSTANTIATE(Half, BFloat16)
DI_INSTANTIATE(BFloat16, float) DI_INSTANTIATE(BFloat16, Half) DI_INSTANTIATE(BFloat16, BFloat16)
DI_INSTANTIATE(double, double)

}  // namespace di
