#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "assemble.h"
#include "assemble_math.h"
#include "core/clones.h"
#include "core/thread_pool.h"

namespace di {
namespace {

// Inlined always, so that the body is compiled for the processor that its DI_CLONES caller is for.
#define DI_INLINE inline __attribute__((always_inline))

using Float4 = float __attribute__((vector_size(16)));
using Order4 = int32_t __attribute__((vector_size(16)));

DI_INLINE Float4 load4(const float* p) { Float4 v; memcpy(&v, p, sizeof v); return v; }
DI_INLINE void store4(float* p, Float4 v) { memcpy(p, &v, sizeof v); }

// first[i] and weights[i / 4][tap][i % 4] for the output pixels of an axis; the last pixel fills up the last four.
DI_CLONES void make_taps(const TriangleFilter& filter, int32_t size, bool flip, int32_t* first, float* weights) {
  const int32_t count = filter.count();
  for (int32_t i = 0; i < (size + 3) / 4 * 4; ++i) {
    const int32_t pixel = i < size ? i : size - 1;
    const Taps taps = filter.taps(flip ? size - 1 - pixel : pixel);
    first[i] = taps.first;
    float* w = weights + int64_t(i / 4) * 4 * count + i % 4;
    for (int32_t k = 0; k < count; ++k) w[4 * int64_t(k)] = filter.weight(taps, k);
  }
}

struct AxisTaps {
  std::vector<int32_t> first;
  std::vector<float> weights;
  int32_t count = 0;

  void make(double offset, double scale, int32_t length, int32_t size, bool flip) {
    const TriangleFilter filter(offset, scale, length);
    const size_t padded = (size_t(size) + 3) / 4 * 4;
    count = filter.count();
    first.resize(padded);
    weights.resize(padded * count);
    make_taps(filter, size, flip, first.data(), weights.data());
  }

  float weight(int32_t i, int32_t tap) const { return weights[(size_t(i / 4) * count + tap) * 4 + i % 4]; }
};

// A source row as interleaved floats.
template <class S>
DI_CLONES void convert_row(const S* __restrict source, int64_t channel_stride, int32_t width, float* __restrict row) {
  if (channel_stride == 1)
    for (int64_t e = 0; e < 3 * int64_t(width); ++e) row[e] = load(source[e]);
  else
    for (int c = 0; c < 3; ++c)
      for (int64_t x = 0; x < width; ++x) row[3 * x + c] = load(source[c * channel_stride + x]);
}

// Source rows as interleaved floats: a row serves two or more output rows and is converted once while the taps fit.
struct Ring {
  static constexpr int32_t kMost = 16;   // reductions up to 8 times; more would leave the cache
  std::vector<float> values;
  int32_t held[kMost];
  int32_t size = 0;
  int64_t length = 0;

  void reset(int32_t taps, int64_t row_length) {
    size = std::min(taps, kMost);
    length = row_length;
    values.resize(std::max(values.size(), size_t(size * length)));
    std::fill_n(held, size, -1);
  }

  template <class S>
  const float* row(const AssembleRow& image, int32_t y) {
    float* const values_of = &values[y % size * length];
    if (held[y % size] != y) {
      convert_row(static_cast<const S*>(image.data) + y * image.row_stride, image.channel_stride, image.width, values_of);
      held[y % size] = y;
    }
    return values_of;
  }
};

struct Scratch {
  AxisTaps down, across;
  Ring ring;
  std::vector<float> sum, line;   // a row after the vertical pass; a finished row that awaits rounding
};

// sum[e] (+)= weights[0] * rows[0][e] + weights[1] * rows[1][e] ..., one after the other.
template <int kRows, bool kStarts>
DI_INLINE void add_rows(const float* const* rows, const float* weights, int64_t length, float* __restrict sum) {
  const float *a = rows[0], *b = rows[kRows > 1 ? 1 : 0], *c = rows[kRows > 2 ? 2 : 0], *d = rows[kRows > 3 ? 3 : 0];
  for (int64_t e = 0; e < length; ++e) {
    float total = weights[0] * a[e];
    if (!kStarts) total += sum[e];
    if (kRows > 1) total += weights[1] * b[e];
    if (kRows > 2) total += weights[2] * c[e];
    if (kRows > 3) total += weights[3] * d[e];
    sum[e] = total;
  }
}

DI_CLONES void add_rows(const float* const* rows, const float* weights, int count, bool starts, int64_t length, float* sum) {
  switch (count + (starts ? 4 : 0)) {
    case 1: return add_rows<1, false>(rows, weights, length, sum);
    case 2: return add_rows<2, false>(rows, weights, length, sum);
    case 3: return add_rows<3, false>(rows, weights, length, sum);
    case 4: return add_rows<4, false>(rows, weights, length, sum);
    case 5: return add_rows<1, true>(rows, weights, length, sum);
    case 6: return add_rows<2, true>(rows, weights, length, sum);
    case 7: return add_rows<3, true>(rows, weights, length, sum);
    case 8: return add_rows<4, true>(rows, weights, length, sum);
  }
}

// Where a finished row goes. Four pixels make three packets of four values: R, G and B, or twelve interleaved values in order.
struct Target {
  float* row;
  int64_t packet, step;   // from one packet of a group to the next, from one group to the next
  bool interleaved;
};

// Four output pixels. A vector holds R, G, B and the next pixel's R, which is thrown away.
template <int kTaps>
DI_INLINE void group_of_four(const float* row, const int32_t* first, const float* weights, int32_t count, Float4 scale,
                             Float4 shift, float* out, int64_t packet, bool interleaved) {
  const float *p0 = row + 3 * int64_t(first[0]), *p1 = row + 3 * int64_t(first[1]);
  const float *p2 = row + 3 * int64_t(first[2]), *p3 = row + 3 * int64_t(first[3]);
  Float4 v0{}, v1{}, v2{}, v3{};
  const int32_t taps = kTaps ? kTaps : count;
#pragma GCC unroll 4
  for (int32_t k = 0; k < taps; ++k, weights += 4) {
    const int64_t e = 3 * int64_t(k);
    v0 += weights[0] * load4(p0 + e);
    v1 += weights[1] * load4(p1 + e);
    v2 += weights[2] * load4(p2 + e);
    v3 += weights[3] * load4(p3 + e);
  }
  v0 = v0 * scale + shift, v1 = v1 * scale + shift, v2 = v2 * scale + shift, v3 = v3 * scale + shift;
  if (interleaved) {
    store4(out, __builtin_shuffle(v0, v1, Order4{0, 1, 2, 4}));
    store4(out + packet, __builtin_shuffle(v1, v2, Order4{1, 2, 4, 5}));
    store4(out + 2 * packet, __builtin_shuffle(v2, v3, Order4{2, 4, 5, 6}));
  } else {
    const Float4 rg01 = __builtin_shuffle(v0, v1, Order4{0, 4, 1, 5}), b01 = __builtin_shuffle(v0, v1, Order4{2, 6, 3, 7});
    const Float4 rg23 = __builtin_shuffle(v2, v3, Order4{0, 4, 1, 5}), b23 = __builtin_shuffle(v2, v3, Order4{2, 6, 3, 7});
    store4(out, __builtin_shuffle(rg01, rg23, Order4{0, 1, 4, 5}));
    store4(out + packet, __builtin_shuffle(rg01, rg23, Order4{2, 3, 6, 7}));
    store4(out + 2 * packet, __builtin_shuffle(b01, b23, Order4{0, 1, 4, 5}));
  }
}

template <int kTaps>
DI_INLINE void filter_columns(const float* row, const AxisTaps& columns, int32_t width, const float* scale, const float* shift,
                              const Target& target) {
  const Float4 a{scale[0], scale[1], scale[2], 0}, b{shift[0], shift[1], shift[2], 0};
  const int32_t *first = columns.first.data(), count = columns.count;
  const float* weights = columns.weights.data();
  float* out = target.row;
  const int64_t packet = target.packet, step = target.step;
  const bool interleaved = target.interleaved;
  for (int32_t x = 0; x + 4 <= width; x += 4, first += 4, weights += 4 * int64_t(count), out += step)
    group_of_four<kTaps>(row, first, weights, count, a, b, out, packet, interleaved);
  if (const int32_t left = width % 4) {
    float pixels[12];
    group_of_four<kTaps>(row, first, weights, count, a, b, pixels, 4, interleaved);
    if (interleaved) memcpy(out, pixels, 3 * left * sizeof(float));
    else for (int c = 0; c < 3; ++c) memcpy(out + c * packet, pixels + 4 * c, left * sizeof(float));
  }
}

// The horizontal pass over one row, with scale and shift. The usual numbers of taps are unrolled.
DI_CLONES void filter_columns(const float* row, const AxisTaps& columns, int32_t width, const float* scale, const float* shift,
                              const Target& target) {
  switch (columns.count) {
    case 2: return filter_columns<2>(row, columns, width, scale, shift, target);
    case 3: return filter_columns<3>(row, columns, width, scale, shift, target);
    case 4: return filter_columns<4>(row, columns, width, scale, shift, target);
    default: return filter_columns<0>(row, columns, width, scale, shift, target);
  }
}

template <class T>
DI_CLONES void round_values(const float* __restrict values, int64_t length, T* __restrict out) {
  for (int64_t e = 0; e < length; ++e) out[e] = store<T>(values[e]);
}

template <class S, class T>
void assemble_image(const AssembleRow& image, T* out, const AssembleParams& params, Scratch& scratch) {
  const int64_t length = 3 * int64_t(image.width), plane = int64_t(params.height) * params.width;
  const float *scale = params.scale[image.generated], *shift = params.shift[image.generated];
  scratch.down.make(image.offset_y, image.scale_y, image.height, params.height, false);
  scratch.across.make(image.offset_x, image.scale_x, image.width, params.width, image.flip);
  scratch.ring.reset(scratch.down.count, length);
  scratch.sum.resize(length + 1);   // one more, since a pixel is read as four values
  if (!std::is_same_v<T, float>) scratch.line.resize(3 * int64_t(params.width));

  for (int32_t y = 0; y < params.height; ++y) {
    const float* rows[4];
    float weights[4];
    int count = 0;
    bool starts = true;
    for (int32_t k = 0; k < scratch.down.count; ++k) {
      const float weight = scratch.down.weight(y, k);
      if (weight == 0) continue;
      if (count == 4) {
        add_rows(rows, weights, count, starts, length, scratch.sum.data());
        count = 0, starts = false;
      }
      weights[count] = weight;
      rows[count++] = scratch.ring.row<S>(image, scratch.down.first[y] + k);
    }
    add_rows(rows, weights, count, starts, length, scratch.sum.data());

    T* const at = out + int64_t(y) * params.width * (params.channels_last ? 3 : 1);
    const int64_t between = std::is_same_v<T, float> ? plane : params.width;
    float* line;
    if constexpr (std::is_same_v<T, float>) line = at;
    else line = scratch.line.data();
    filter_columns(scratch.sum.data(), scratch.across, params.width, scale, shift,
                   params.channels_last ? Target{line, 4, 12, true} : Target{line, between, 4, false});
    if constexpr (!std::is_same_v<T, float>) {
      if (params.channels_last) round_values(line, 3 * int64_t(params.width), at);
      else for (int c = 0; c < 3; ++c) round_values(line + c * between, params.width, at + c * plane);
    }
  }
}

}  // namespace

template <class G, class T>
void assemble_cpu(const AssembleRow* rows, T* out, const AssembleParams& params, int threads) {
  const int64_t size = 3 * int64_t(params.height) * params.width;
  parallel_for(params.n, 1, threads, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;   // its memory is kept for the next batch
    for (int64_t i = begin; i < end; ++i)
      if (rows[i].generated) assemble_image<G>(rows[i], out + i * size, params, scratch);
      else assemble_image<uint8_t>(rows[i], out + i * size, params, scratch);
  });
}

#define DI_INSTANTIATE(G, T) template void assemble_cpu<G, T>(const AssembleRow*, T*, const AssembleParams&, int);
DI_INSTANTIATE(float, float) DI_INSTANTIATE(float, Half) DI_INSTANTIATE(float, BFloat16)
DI_INSTANTIATE(Half, float) DI_INSTANTIATE(Half, Half) DI_INSTANTIATE(Half, BFloat16)
DI_INSTANTIATE(BFloat16, float) DI_INSTANTIATE(BFloat16, Half) DI_INSTANTIATE(BFloat16, BFloat16)

}  // namespace di
