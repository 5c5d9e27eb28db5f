#include <algorithm>
#include <vector>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "prepare_features.h"
#include "prepare_features_math.h"

namespace di {

using namespace prepare_features_math;

namespace {

template <class S> struct Filter {
  std::vector<TriangleSpan> spans;                         // [resolution]
  std::vector<typename Resample<S>::Weight> weights;       // [resolution, taps]
  int edge = 0, taps = 0;

  void make(int new_edge, int resolution) {
    if (new_edge == edge) return;   // most images of a batch are of one size
    edge = new_edge;
    taps = triangle_taps(edge, resolution);
    spans.resize(resolution);
    weights.resize(size_t(resolution) * taps);
    for (int i = 0; i < resolution; ++i) {
      spans[i] = triangle_span(edge, resolution, i);
      for (int k = 0; k < spans[i].count; ++k) weights[size_t(i) * taps + k] = Resample<S>::weight(tent(spans[i], k) / spans[i].total);
    }
  }
};

// Horizontal pass over one source row.
template <class S>
inline void filter_row(const S* source, int64_t column, int64_t channel, const Filter<S>& filter, int resolution,
                       typename Resample<S>::Value* out) {
  using R = Resample<S>;
  for (int x = 0; x < resolution; ++x, out += 3) {
    const typename R::Weight* weight = filter.weights.data() + size_t(x) * filter.taps;
    const S* pixel = source + filter.spans[x].first * column;
    auto red = R::start(), green = R::start(), blue = R::start();
    for (int k = 0; k < filter.spans[x].count; ++k, pixel += column) {
      red += weight[k] * R::value(pixel[0]);
      green += weight[k] * R::value(pixel[channel]);
      blue += weight[k] * R::value(pixel[2 * channel]);
    }
    out[0] = R::finish(red);
    out[1] = R::finish(green);
    out[2] = R::finish(blue);
  }
}

template <class S>
DI_CLONES void filter_row(const SquareView& image, int row, const Filter<S>& filter, int resolution, typename Resample<S>::Value* out) {
  const S* source = reinterpret_cast<const S*>(image.address) + row * image.row;
  if (image.column == 3 && image.channel == 1) filter_row(source, 3, 1, filter, resolution, out);   // with constants it is faster
  else filter_row(source, image.column, image.channel, filter, resolution, out);
}

template <class V, class W> DI_CLONES void add_row(const V* row, W weight, W* sum, int64_t length) {
  for (int64_t i = 0; i < length; ++i) sum[i] += weight * row[i];
}

template <class S, class W>
DI_CLONES void finish_row(const W* sum, const float* mean, const float* std, float* out, int64_t length) {
  using R = Resample<S>;
  for (int64_t i = 0; i < length; ++i) out[i] = normalise(R::unit_range(R::finish(sum[i])), mean[i], std[i]);
}

DI_CLONES void cubic_row(const float* row, const std::vector<CubicSpan>& spans, int resolution, float* out) {
  for (const CubicSpan& span : spans) {
    const float* pixel[4];
    for (int k = 0; k < 4; ++k) pixel[k] = row + 3 * clamped(span.first + k, resolution);
    for (int c = 0; c < 3; ++c) *out++ = cubic(span.weight, pixel[0][c], pixel[1][c], pixel[2][c], pixel[3][c]);
  }
}

template <class T> DI_CLONES void cubic_column(const float* const (&row)[4], const float (&weight)[4], T* out, int64_t length) {
  for (int64_t i = 0; i < length; ++i) out[i] = store<T>(cubic(weight, row[0][i], row[1][i], row[2][i], row[3][i]));
}

// One image at a time, row by row from the end: an output row asks for four resized rows, a resized row for the source rows under its
// filter, and both are kept in rings, so that everything between source and output stays in the cache.
template <class S> class Rows {
  using R = Resample<S>;

 public:
  explicit Rows(const PrepareFeaturesParams& params)
      : resolution_(params.resolution), size_(params.size), mean_(3 * resolution_), std_(3 * resolution_), sum_(3 * resolution_),
        resized_(3 * resolution_), wide_(4 * 3 * size_) {
    for (int64_t i = 0; i < 3 * resolution_; ++i) mean_[i] = params.mean[i % 3], std_[i] = params.std[i % 3];
  }

  void begin(const SquareView& image) {
    image_ = image;
    filter_.make(int(image.edge), int(resolution_));
    filtered_.resize(3 * resolution_ * filter_.taps);
    next_ = 0;
    for (int& y : held_) y = -1;
  }

  // Row y at model resolution, resized to the output's width. Rows are asked for in order, at most four apart.
  const float* wide(int y, const std::vector<CubicSpan>& columns) {
    float* out = wide_.data() + y % 4 * 3 * size_;
    if (held_[y % 4] != y) {
      cubic_row(resized(y), columns, int(resolution_), out);
      held_[y % 4] = y;
    }
    return out;
  }

 private:
  const float* resized(int y) {
    const TriangleSpan& span = filter_.spans[y];
    for (next_ = std::max(next_, span.first); next_ < span.first + span.count; ++next_)
      filter_row(image_, next_, filter_, int(resolution_), filtered(next_));
    std::fill(sum_.begin(), sum_.end(), R::start());
    for (int k = 0; k < span.count; ++k)
      add_row(filtered(span.first + k), filter_.weights[size_t(y) * filter_.taps + k], sum_.data(), 3 * resolution_);
    finish_row<S>(sum_.data(), mean_.data(), std_.data(), resized_.data(), 3 * resolution_);
    return resized_.data();
  }

  typename R::Value* filtered(int row) { return filtered_.data() + row % filter_.taps * 3 * resolution_; }

  const int64_t resolution_, size_;
  SquareView image_{};
  Filter<S> filter_;
  std::vector<typename R::Value> filtered_;   // [taps, resolution, 3]: a ring
  int next_ = 0;                              // the source row to be filtered next
  std::vector<float> mean_, std_;             // [resolution, 3]
  std::vector<typename R::Weight> sum_;       // [resolution, 3]
  std::vector<float> resized_;                // [resolution, 3]
  std::vector<float> wide_;                   // [4, size, 3]: a ring
  int held_[4];
};

}  // namespace

template <class S, class T>
void prepare_features_cpu(const SquareView* images, T* out, const PrepareFeaturesParams& params, int threads) {
  std::vector<CubicSpan> spans(params.size);   // rows and columns alike: everything is square
  for (int i = 0; i < params.size; ++i) spans[i] = cubic_span(params.resolution, params.size, params.align_corners, i);
  const int64_t length = 3 * int64_t(params.size);
  parallel_for(params.n, 1, threads, [&](int64_t begin, int64_t end) {
    Rows<S> rows(params);
    for (int64_t n = begin; n < end; ++n) {
      rows.begin(images[n]);
      for (int y = 0; y < params.size; ++y) {
        const float* row[4];
        for (int k = 0; k < 4; ++k) row[k] = rows.wide(clamped(spans[y].first + k, params.resolution), spans);
        cubic_column(row, spans[y].weight, out + (n * params.size + y) * length, length);
      }
    }
  });
}

#define DI_INSTANTIATE(S)                                                                               \
  template void prepare_features_cpu<S>(const SquareView*, float*, const PrepareFeaturesParams&, int);  \
  template void prepare_features_cpu<S>(const SquareView*, Half*, const PrepareFeaturesParams&, int);   \
  template void prepare_features_cpu<S>(const SquareView*, BFloat16*, const PrepareFeaturesParams&, int);
DI_INSTANTIATE(uint8_t)
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
