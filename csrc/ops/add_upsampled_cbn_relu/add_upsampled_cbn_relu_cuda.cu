#include "add_upsampled_cbn_relu.h"
#include "add_upsampled_cbn_relu_math.h"
#include "core/channels.cuh"

namespace di {

using namespace add_upsampled_cbn_relu_math;

// Memory-bound. A thread makes a quad of 2x2 pixels at a time, so that an upsampled shortcut is read once, from five independent
// loads, then goes on to the next quad of its channels.
constexpr int kQuads = 4;

template <class T, int kWidth, bool kFull>
__global__ void __launch_bounds__(ChannelBlocks::kThreads)
    add_upsampled_cbn_relu_kernel(const T* __restrict__ conv, const T* __restrict__ shortcut, const float* __restrict__ bias,
                                  const float* __restrict__ scale, const float* __restrict__ shift, T* __restrict__ y,
                                  T* __restrict__ a, AddUpsampledCbnReluParams params) {
  const int c = int(params.c), h = int(params.h / 2), w = int(params.w / 2), o = (blockIdx.y * blockDim.x + threadIdx.x) * kWidth;
  if (o >= c) return;
  const int64_t n = blockIdx.z;
  float constant[kWidth] = {}, by[kWidth] = {}, plus[kWidth] = {};
  if (bias) read_row(bias + o, constant);
  if (a) {
    read_row(scale + n * params.scale_row + o, by);
    read_row(shift + n * params.shift_row + o, plus);
  }
  const int64_t first = int64_t(blockIdx.x) * (blockDim.y * kQuads) + threadIdx.y;
#pragma unroll 1   // more would mingle the loads of one quad with the stores of another
  for (int k = 0; k < kQuads; ++k) {
    const int64_t quad = first + k * blockDim.y;
    if (quad >= int64_t(h) * w) return;
    const unsigned i = unsigned(quad) / w, j = unsigned(quad) % w;
    const int64_t corner = (n * h + i) * 4 * w + 2 * j;
    Channels<T, kWidth> pixel[4], added[kFull ? 4 : 1] = {};   // zeros where there is no shortcut
#pragma unroll
    for (int p = 0; p < 4; ++p) pixel[p].read(conv + (corner + p / 2 * 2 * w + p % 2) * params.conv_pixel + o);
    if constexpr (kFull) {
#pragma unroll
      for (int p = 0; p < 4; ++p) added[p].read(shortcut + (corner + p / 2 * 2 * w + p % 2) * params.shortcut_pixel + o);
    } else if (shortcut) {
      added[0].read(shortcut + ((n * h + i) * w + j) * params.shortcut_pixel + o);
    }
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int64_t at = corner + p / 2 * 2 * w + p % 2;
      float sum[kWidth];
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum[e] = add(pixel[p][e], added[kFull ? p : 0][e], constant[e]);
      if (y) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) pixel[p].set(e, sum[e]);
        pixel[p].write(y + at * params.y_pixel + o);
      }
      if (a) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) pixel[p].set(e, scale_shift_relu(sum[e], by[e], plus[e]));
        pixel[p].write(a + at * params.a_pixel + o);
      }
    }
  }
}

template <class T>
void add_upsampled_cbn_relu_cuda(const AddUpsampledCbnReluTensors<T>& tensors, const AddUpsampledCbnReluParams& params, Stream stream) {
  if (params.n * params.h * params.w * params.c == 0) return;
  const T *conv = tensors.conv, *shortcut = tensors.shortcut;
  const float *bias = tensors.bias, *scale = tensors.scale, *shift = tensors.shift;
  T *y = tensors.y, *a = tensors.a;
  // What is absent takes packets too.
  const bool packets = takes_packets(conv, params.conv_pixel, params.c) && takes_packets(shortcut, params.shortcut_pixel) &&
                       takes_packets(bias) && takes_packets(scale, params.scale_row) && takes_packets(shift, params.shift_row) &&
                       takes_packets(y, params.y_pixel) && takes_packets(a, params.a_pixel);
  const ChannelBlocks blocks(packets ? params.c / kPacketWidth<T> : params.c);
  const auto run = [&](auto kernel) {
    launch("add_upsampled_cbn_relu", kernel, blocks.grid(params.h / 2 * (params.w / 2), kQuads, params.n), blocks.block, 0, stream, conv,
           shortcut, bias, scale, shift, y, a, params);
  };
  if (params.kind == Shortcut::full)
    run(packets ? add_upsampled_cbn_relu_kernel<T, kPacketWidth<T>, true> : add_upsampled_cbn_relu_kernel<T, 1, true>);
  else run(packets ? add_upsampled_cbn_relu_kernel<T, kPacketWidth<T>, false> : add_upsampled_cbn_relu_kernel<T, 1, false>);
}

#define DI_INSTANTIATE(T) \
  template void add_upsampled_cbn_relu_cuda(const AddUpsampledCbnReluTensors<T>&, const AddUpsampledCbnReluParams&, Stream);
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
