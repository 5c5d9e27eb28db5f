#include "average_pool.h"
#include "average_pool_math.h"
#include "core/channels.cuh"

namespace di {

using namespace average_pool_math;

// Memory-bound. A thread takes its channels of all pixels of an image, kFlight loads at a time. Blocks are small, as images are few.
constexpr int kThreads = 64, kFlight = 4;

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) average_pool_kernel(const T* __restrict__ x, float* __restrict__ mean, AveragePoolParams params) {
  const int64_t o = (blockIdx.x * kThreads + threadIdx.x) * int64_t(kWidth);
  if (o >= params.c) return;
  const int64_t n = blockIdx.y;
  x += n * params.pixels * params.x_pixel + o;
  double sum[kWidth] = {};
  for (int64_t p = 0; p < params.pixels; p += kFlight) {
    Channels<T, kWidth> pixel[kFlight] = {};
#pragma unroll
    for (int k = 0; k < kFlight; ++k)
      if (p + k < params.pixels) pixel[k].read(x + (p + k) * params.x_pixel);
#pragma unroll
    for (int k = 0; k < kFlight; ++k)
      if (p + k < params.pixels)
#pragma unroll
        for (int e = 0; e < kWidth; ++e) sum[e] += double(pixel[k][e]);
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) mean[n * params.c + o + e] = mean_of(sum[e], params.pixels);
}

template <class T> void average_pool_cuda(const T* x, float* mean, const AveragePoolParams& params, Stream stream) {
  if (params.n * params.c == 0) return;
  const bool packets = takes_packets(x, params.x_pixel, params.c);
  const int64_t groups = packets ? params.c / kPacketWidth<T> : params.c;
  launch("average_pool", packets ? average_pool_kernel<T, kPacketWidth<T>> : average_pool_kernel<T, 1>,
         dim3(unsigned((groups + kThreads - 1) / kThreads), unsigned(params.n)), dim3(kThreads), 0, stream, x, mean, params);
}

template void average_pool_cuda(const float*, float*, const AveragePoolParams&, Stream);
template void average_pool_cuda(const Half*, float*, const AveragePoolParams&, Stream);
template void average_pool_cuda(const BFloat16*, float*, const AveragePoolParams&, Stream);

}  // namespace di
