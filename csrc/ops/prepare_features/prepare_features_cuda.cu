#include "core/launch.cuh"
#include "prepare_features.h"
#include "prepare_features_math.h"

namespace di {

using namespace prepare_features_math;

// Three kernels: each image's filter (every image may have its own size), the antialiased resize with both passes fused, the bicubic
// resize with the cast fused. Between the last two lies one normalised float image at model resolution.

// first[resolution], count[resolution], weight[taps][resolution]: neighbouring threads read neighbouring words.
template <class S> struct FilterWords {
  int32_t* words;
  int resolution;

  __device__ __forceinline__ int32_t& first(int i) const { return words[i]; }
  __device__ __forceinline__ int32_t& count(int i) const { return words[resolution + i]; }
  __device__ __forceinline__ typename Resample<S>::Weight& weight(int i, int k) const {
    return reinterpret_cast<typename Resample<S>::Weight*>(words)[(2 + int64_t(k)) * resolution + i];
  }
};

template <class S> __global__ void __launch_bounds__(128) triangle_filter_kernel(const SquareView* images, int32_t* words, int resolution) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= resolution) return;
  const SquareView& image = images[blockIdx.y];
  const FilterWords<S> filter{words + image.words, resolution};
  const TriangleSpan span = triangle_span(int(image.edge), resolution, i);
  filter.first(i) = span.first;
  filter.count(i) = span.count;
  for (int k = 0; k < span.count; ++k) filter.weight(i, k) = Resample<S>::weight(tent(span, k) / span.total);
}

constexpr int kColumns = 32, kRows = 8;

// A block makes kRows x kColumns pixels. It walks down the source rows under them, kRows at a time: filters them horizontally into
// shared memory, then each thread adds those under its own pixel. So any reduction factor takes the same shared memory.
template <class S>
__global__ void __launch_bounds__(kColumns* kRows)
    triangle_resize_kernel(const SquareView* images, int32_t* words, float* resized, PrepareFeaturesParams params) {
  using R = Resample<S>;
  __shared__ typename R::Value tile[kRows][3 * kColumns];
  const int resolution = params.resolution, top = blockIdx.y * kRows;
  const int x = blockIdx.x * kColumns + threadIdx.x, y = top + threadIdx.y;
  const int bottom = (top + kRows < resolution ? top + kRows : resolution) - 1;
  const bool inside = x < resolution && y < resolution;
  const SquareView image = images[blockIdx.z];
  const FilterWords<S> filter{words + image.words, resolution};
  const int end = filter.first(bottom) + filter.count(bottom);
  const int own_first = inside ? filter.first(y) : end, own_end = inside ? own_first + filter.count(y) : end;

  typename R::Weight sum[3] = {R::start(), R::start(), R::start()};
  for (int row = filter.first(top); row < end; row += kRows) {
    if (x < resolution && row + int(threadIdx.y) < end) {
      const int first = filter.first(x), count = filter.count(x);
      const S* pixel = reinterpret_cast<const S*>(image.address) + (row + int64_t(threadIdx.y)) * image.row + first * image.column;
      typename R::Weight value[3] = {R::start(), R::start(), R::start()};
      for (int k = 0; k < count; ++k, pixel += image.column)
#pragma unroll
        for (int c = 0; c < 3; ++c) value[c] += filter.weight(x, k) * R::value(pixel[c * image.channel]);
#pragma unroll
      for (int c = 0; c < 3; ++c) tile[threadIdx.y][3 * threadIdx.x + c] = R::finish(value[c]);
    }
    __syncthreads();
    const int from = own_first > row ? own_first : row, to = own_end < row + kRows ? own_end : row + kRows;
    for (int k = from; k < to; ++k)
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += filter.weight(y, k - own_first) * tile[k - row][3 * threadIdx.x + c];
    __syncthreads();
  }
  if (!inside) return;
  resized += ((blockIdx.z * int64_t(resolution) + y) * resolution + x) * 3;
#pragma unroll
  for (int c = 0; c < 3; ++c) resized[c] = normalise(R::unit_range(R::finish(sum[c])), params.mean[c], params.std[c]);
}

template <class T>
__global__ void __launch_bounds__(kColumns* kRows) cubic_resize_kernel(const float* resized, T* out, PrepareFeaturesParams params) {
  const int x = blockIdx.x * kColumns + threadIdx.x, y = blockIdx.y * kRows + threadIdx.y;
  if (x >= params.size || y >= params.size) return;
  const CubicSpan across = cubic_span(params.resolution, params.size, params.align_corners, x);
  const CubicSpan down = cubic_span(params.resolution, params.size, params.align_corners, y);
  float value[4][3];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t row = blockIdx.z * int64_t(params.resolution) + clamped(down.first + j, params.resolution);
    const float* pixel[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) pixel[k] = resized + (row * params.resolution + clamped(across.first + k, params.resolution)) * 3;
#pragma unroll
    for (int c = 0; c < 3; ++c) value[j][c] = cubic(across.weight, pixel[0][c], pixel[1][c], pixel[2][c], pixel[3][c]);
  }
  out += ((blockIdx.z * int64_t(params.size) + y) * params.size + x) * 3;
#pragma unroll
  for (int c = 0; c < 3; ++c) out[c] = store<T>(cubic(down.weight, value[0][c], value[1][c], value[2][c], value[3][c]));
}

template <class S, class T>
void prepare_features_cuda(const SquareView* images, const FeatureWorkspace& workspace, T* out, const PrepareFeaturesParams& params,
                           Stream stream) {
  if (params.n == 0) return;
  const auto blocks = [](int count, int each) { return unsigned((count + each - 1) / each); };
  const unsigned n = unsigned(params.n);
  const int resolution = params.resolution, size = params.size;
  launch("triangle_filter", triangle_filter_kernel<S>, dim3(blocks(resolution, 128), n), dim3(128), 0, stream, images, workspace.words,
         resolution);
  launch("triangle_resize", triangle_resize_kernel<S>, dim3(blocks(resolution, kColumns), blocks(resolution, kRows), n),
         dim3(kColumns, kRows), 0, stream, images, workspace.words, workspace.resized, params);
  launch("cubic_resize", cubic_resize_kernel<T>, dim3(blocks(size, kColumns), blocks(size, kRows), n), dim3(kColumns, kRows), 0, stream,
         workspace.resized, out, params);
}

#define DI_INSTANTIATE(S)                                                                                                           \
  template void prepare_features_cuda<S>(const SquareView*, const FeatureWorkspace&, float*, const PrepareFeaturesParams&, Stream); \
  template void prepare_features_cuda<S>(const SquareView*, const FeatureWorkspace&, Half*, const PrepareFeaturesParams&, Stream);  \
  template void prepare_features_cuda<S>(const SquareView*, const FeatureWorkspace&, BFloat16*, const PrepareFeaturesParams&, Stream);
DI_INSTANTIATE(uint8_t)
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
