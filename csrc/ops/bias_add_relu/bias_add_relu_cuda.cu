#include "bias_add_relu.h"
#include "bias_add_relu_math.h"
#include "core/channels.cuh"

namespace di {

using namespace bias_add_relu_math;

// Memory-bound. A thread takes its channels of four pixels: four independent loads, eight with a residual. out may be x or residual,
// so all of them come before the first store.
constexpr int kFlight = 4;

template <class T, int kWidth>
__global__ void __launch_bounds__(ChannelBlocks::kThreads)
    bias_add_relu_kernel(const T* x, const float* __restrict__ bias, const T* residual, T* out, BiasAddReluParams params) {
  const int64_t o = (blockIdx.y * blockDim.x + threadIdx.x) * int64_t(kWidth);
  if (o >= params.c) return;
  float constant[kWidth];
  read_row(bias + o, constant);
  const int64_t first = int64_t(blockIdx.x) * (blockDim.y * kFlight) + threadIdx.y;
  Channels<T, kWidth> pixel[kFlight], added[kFlight] = {};
#pragma unroll
  for (int k = 0; k < kFlight; ++k) {
    const int64_t p = first + k * blockDim.y;
    if (p >= params.pixels) continue;
    pixel[k].read(x + p * params.x_pixel + o);
    if (residual) added[k].read(residual + p * params.residual_pixel + o);
  }
#pragma unroll
  for (int k = 0; k < kFlight; ++k) {
    const int64_t p = first + k * blockDim.y;
    if (p >= params.pixels) return;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) pixel[k].set(e, finish(pixel[k][e], constant[e], added[k][e], params.relu));
    pixel[k].write(out + p * params.out_pixel + o);
  }
}

template <class T>
void bias_add_relu_cuda(const T* x, const float* bias, const T* residual, T* out, const BiasAddReluParams& params, Stream stream) {
  if (params.pixels * params.c == 0) return;
  const bool packets = takes_packets(x, params.x_pixel, params.c) && takes_packets(bias) && takes_packets(residual, params.residual_pixel) &&
                       takes_packets(out, params.out_pixel);
  const ChannelBlocks blocks(packets ? params.c / kPacketWidth<T> : params.c);
  launch("bias_add_relu", packets ? bias_add_relu_kernel<T, kPacketWidth<T>> : bias_add_relu_kernel<T, 1>,
         blocks.grid(params.pixels, kFlight, 1), blocks.block, 0, stream, x, bias, residual, out, params);
}

#define DI_INSTANTIATE(T) template void bias_add_relu_cuda(const T*, const float*, const T*, T*, const BiasAddReluParams&, Stream);
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
