#include <type_traits>

#include "core/channels.cuh"
#include "tail.h"
#include "tail_math.h"

namespace di {

using namespace tail_math;

// A block makes kTile x kTile pixels. A chunk of channels at a time it activates the tile and its border into shared memory, a plane a
// channel; then each thread convolves a column of kRows pixels, whose 72 sums and a channel's 27 weights stay in registers: 216
// multiply-adds for 30 words of the tile. Once read, the activation moves no further than that; arithmetic and memory take about as
// long, so that three blocks a multiprocessor overlap one's loads with another's sums.
constexpr int kTile = 32, kRows = 8, kThreads = kTile * kTile / kRows, kChunk = 16;
constexpr int kEdge = kTile + 2, kPixels = kEdge * kEdge;
constexpr int kPlane = kPixels + 2;   // 2 modulo 4: the packets of a pixel and its neighbours meet different banks
constexpr int kTaps = 28;             // 27 weights a channel, to whole packets
constexpr size_t kSharedBytes = sizeof(float) * kChunk * (kPlane + kTaps);

enum class Out { float32, float16, bfloat16 };
template <class O> constexpr Out kOut = std::is_same_v<O, float> ? Out::float32 : std::is_same_v<O, Half> ? Out::float16 : Out::bfloat16;

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 3)
    tail_kernel(const T* __restrict__ conv, const T* __restrict__ shortcut, const float* __restrict__ bias, const float* __restrict__ scale,
                const float* __restrict__ shift, const float* __restrict__ weight, const float* __restrict__ out_bias, void* out, Out kind,
                TailParams params) {
  constexpr int kGroups = kChunk / kWidth, kPixelStep = kThreads / kGroups, kFlight = 4;
  float* const tile = dynamic_shared<float>();
  float* const taps = tile + kChunk * kPlane;
  const int c = int(params.c), h = int(params.h), w = int(params.w), thread = threadIdx.y * kTile + threadIdx.x;
  const int tiles = (w + kTile - 1) / kTile, left = blockIdx.x % tiles * kTile, top = blockIdx.x / tiles * kTile;
  const int64_t n = blockIdx.z;
  conv += n * h * w * params.conv_pixel;
  if (shortcut) shortcut += n * (h / 2) * (w / 2) * params.shortcut_pixel;

  float sum[kRows][3];
#pragma unroll
  for (int i = 0; i < kRows; ++i)
#pragma unroll
    for (int o = 0; o < 3; ++o) sum[i][o] = out_bias[o];

  for (int first = 0; first < c; first += kChunk) {
    const int count = c - first < kChunk ? c - first : kChunk;
    __syncthreads();   // the chunk before has been read
    for (int k = thread; k < count * 27; k += kThreads)
      taps[k / 27 * kTaps + k % 27] = weight[(k % 3 * int64_t(c) + first + k / 27) * 9 + k % 27 / 3];
    const int group = thread % kGroups * kWidth;
    if (group < count) {
      float constant[kWidth] = {}, by[kWidth], plus[kWidth];
      if (bias) read_row(bias + first + group, constant);
      read_row(scale + first + group, by);
      read_row(shift + first + group, plus);
      for (int start = thread / kGroups; start < kPixels; start += kFlight * kPixelStep) {
        Channels<T, kWidth> pixel[kFlight], added[kFlight] = {};
        bool inside[kFlight];
#pragma unroll
        for (int k = 0; k < kFlight; ++k) {
          const int at = start + k * kPixelStep, y = top - 1 + at / kEdge, x = left - 1 + at % kEdge;
          inside[k] = at < kPixels && y >= 0 && y < h && x >= 0 && x < w;
          if (!inside[k]) continue;
          pixel[k].read(conv + (int64_t(y) * w + x) * params.conv_pixel + first + group);
          if (shortcut) added[k].read(shortcut + (int64_t(y / 2) * (w / 2) + x / 2) * params.shortcut_pixel + first + group);
        }
#pragma unroll
        for (int k = 0; k < kFlight; ++k) {
          const int at = start + k * kPixelStep;
          if (at >= kPixels) continue;
#pragma unroll
          for (int e = 0; e < kWidth; ++e)
            tile[(group + e) * kPlane + at] = inside[k] ? scale_shift_relu(add(pixel[k][e], added[k][e], constant[e]), by[e], plus[e]) : 0.0f;
        }
      }
    }
    __syncthreads();

#pragma unroll 1
    for (int o = 0; o < count; ++o) {
      float tap[kTaps];
#pragma unroll
      for (int k = 0; k < kTaps; k += 4) {
        const Packet<float> packet = *reinterpret_cast<const Packet<float>*>(taps + o * kTaps + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) tap[k + i] = packet.value[i];
      }
      const float* column = tile + o * kPlane + threadIdx.y * kRows * kEdge + threadIdx.x;
#pragma unroll
      for (int row = 0; row < kRows + 2; ++row) {
        const float a[3] = {column[row * kEdge], column[row * kEdge + 1], column[row * kEdge + 2]};
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          if (row - u < 0 || row - u >= kRows) continue;   // known when compiled
#pragma unroll
          for (int v = 0; v < 3; ++v)
#pragma unroll
            for (int k = 0; k < 3; ++k) sum[row - u][k] = fused(tap[(u * 3 + v) * 3 + k], a[v], sum[row - u][k]);
        }
      }
    }
  }

  const int x = left + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int y = top + threadIdx.y * kRows + i;
    if (x >= w || y >= h) continue;
    const int64_t at = ((n * h + y) * w + x) * 3;
#pragma unroll
    for (int o = 0; o < 3; ++o) {
      const float colour = tanh_by_exp(sum[i][o]);
      if (kind == Out::float16) static_cast<Half*>(out)[at + o] = store<Half>(colour);
      else if (kind == Out::bfloat16) static_cast<BFloat16*>(out)[at + o] = store<BFloat16>(colour);
      else static_cast<float*>(out)[at + o] = colour;
    }
  }
}

template <class T, class O> void tail_cuda(const TailTensors<T, O>& tensors, const TailParams& params, Stream stream) {
  if (params.n * params.h * params.w == 0) return;
  // What is absent takes packets too.
  const bool packets = takes_packets(tensors.conv, params.conv_pixel, params.c) && takes_packets(tensors.shortcut, params.shortcut_pixel) &&
                       takes_packets(tensors.bias) && takes_packets(tensors.scale) && takes_packets(tensors.shift);
  const int64_t tiles = (params.h + kTile - 1) / kTile * ((params.w + kTile - 1) / kTile);
  launch("tail", packets ? tail_kernel<T, kPacketWidth<T>> : tail_kernel<T, 1>, dim3(unsigned(tiles), 1, unsigned(params.n)),
         dim3(kTile, kThreads / kTile), kSharedBytes, stream, tensors.conv, tensors.shortcut, tensors.bias, tensors.scale, tensors.shift,
         tensors.weight, tensors.out_bias, static_cast<void*>(tensors.out), kOut<O>, params);
}

#define DI_INSTANTIATE(T, O) template void tail_cuda(const TailTensors<T, O>&, const TailParams&, Stream);
DI_INSTANTIATE(float, float) DI_INSTANTIATE(float, Half) DI_INSTANTIATE(float, BFloat16)
DI_INSTANTIATE(Half, float) DI_INSTANTIATE(Half, Half) DI_INSTANTIATE(Half, BFloat16)
DI_INSTANTIATE(BFloat16, float) DI_INSTANTIATE(BFloat16, Half) DI_INSTANTIATE(BFloat16, BFloat16)

}  // namespace di
