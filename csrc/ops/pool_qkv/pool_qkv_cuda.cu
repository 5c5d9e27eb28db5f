#include "core/channels.cuh"
#include "pool_qkv.h"
#include "pool_qkv_math.h"

namespace di {

using namespace pool_qkv_math;

// Memory-bound. A thread takes the same columns, counted over a row of q, one of k and one of v with their padding, of one quad of
// pixels: four independent loads; then four rows of q, or one of k or v.
constexpr int kQuads = 2;

template <class T, int kWidth>
__global__ void __launch_bounds__(ChannelBlocks::kThreads)
    pool_qkv_kernel(const T* __restrict__ qkv, T* __restrict__ q, T* __restrict__ k, T* __restrict__ v, PoolQkvParams params) {
  const int key = int(params.key_width), value = int(params.value_width), d = int(params.d), e = int(params.e);
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * kWidth;
  if (column >= 2 * key + value) return;
  const int part = column < key ? 0 : column < 2 * key ? 1 : 2;
  const int o = column - part * key, first = part * d + o;   // within the part; in a pixel of qkv
  const bool real = o < (part == 2 ? e : d);                 // else padding
  const unsigned h = unsigned(params.h / 2), w = unsigned(params.w / 2);
  const int64_t n = blockIdx.z, start = int64_t(blockIdx.x) * (blockDim.y * kQuads) + threadIdx.y;
#pragma unroll 1
  for (int64_t quad = start; quad < start + int64_t(kQuads) * blockDim.y && quad < int64_t(h) * w; quad += blockDim.y) {
    const unsigned i = unsigned(quad) / w, j = unsigned(quad) % w;
    const int64_t corner = (n * h + i) * 4 * w + 2 * j;
    Channels<T, kWidth> pixel[4] = {};
    if (real)
#pragma unroll
      for (int p = 0; p < 4; ++p) pixel[p].read(qkv + (corner + p / 2 * 2 * int64_t(w) + p % 2) * params.qkv_pixel + first);
    if (part == 0) {
#pragma unroll
      for (int p = 0; p < 4; ++p) pixel[p].write(q + (corner + p / 2 * 2 * int64_t(w) + p % 2) * key + o);
    } else {
#pragma unroll
      for (int c = 0; c < kWidth; ++c) pixel[0].set(c, largest(pixel[0][c], pixel[1][c], pixel[2][c], pixel[3][c]));
      pixel[0].write((part == 1 ? k : v) + ((n * h + i) * w + j) * (part == 1 ? key : value) + o);
    }
  }
}

template <class T> void pool_qkv_cuda(const T* qkv, T* q, T* k, T* v, const PoolQkvParams& params, Stream stream) {
  const int64_t quads = params.h / 2 * (params.w / 2), columns = 2 * params.key_width + params.value_width;
  if (params.n * quads * columns == 0) return;
  const bool packets = takes_packets(qkv, params.qkv_pixel, params.d, params.e) && takes_packets(q, params.key_width) &&
                       takes_packets(k) && takes_packets(v, params.value_width);
  const ChannelBlocks blocks(packets ? columns / kPacketWidth<T> : columns);
  launch("pool_qkv", packets ? pool_qkv_kernel<T, kPacketWidth<T>> : pool_qkv_kernel<T, 1>, blocks.grid(quads, kQuads, params.n),
         blocks.block, 0, stream, qkv, q, k, v, params);
}

#define DI_INSTANTIATE(T) template void pool_qkv_cuda(const T*, T*, T*, T*, const PoolQkvParams&, Stream);
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
