#include "core/channels.cuh"
#include "depth_to_space_cbn_relu.h"
#include "depth_to_space_cbn_relu_math.h"

namespace di {

using namespace depth_to_space_cbn_relu_math;

// Memory-bound. A thread makes the four output pixels of a cell at a time, from four independent loads, then goes on to the next cell
// of its channels.
constexpr int kCells = 4;

template <class T, int kWidth>
__global__ void __launch_bounds__(ChannelBlocks::kThreads)
    depth_to_space_cbn_relu_kernel(const T* __restrict__ z, const float* __restrict__ scale, const float* __restrict__ shift,
                                   T* __restrict__ out, DepthToSpaceCbnReluParams params) {
  const int c = int(params.c), h = int(params.h), w = int(params.w), o = (blockIdx.y * blockDim.x + threadIdx.x) * kWidth;
  if (o >= c) return;
  const int64_t n = blockIdx.z;
  float a[kWidth], b[kWidth];
  read_row(scale + n * params.scale_row + o, a);
  read_row(shift + n * params.shift_row + o, b);
  const int64_t first = int64_t(blockIdx.x) * (blockDim.y * kCells) + threadIdx.y;
#pragma unroll 1   // more would mingle the loads of one cell with the stores of another
  for (int k = 0; k < kCells; ++k) {
    const int64_t cell = first + k * blockDim.y;
    if (cell >= int64_t(h) * w) return;
    const unsigned i = unsigned(cell) / w, j = unsigned(cell) % w;
    const T* from = z + ((n * (h + 1) + i) * (w + 1) + j) * params.z_pixel + o;
    T* to = out + ((n * h + i) * 4 * w + 2 * j) * params.out_pixel + o;
    Channels<T, kWidth> pixel[4];
#pragma unroll
    for (int phase = 0; phase < 4; ++phase) pixel[phase].read(from + phase_offset(phase / 2, phase % 2, w, c, params.z_pixel));
#pragma unroll
    for (int phase = 0; phase < 4; ++phase) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) pixel[phase].set(e, scale_shift_relu(pixel[phase][e], a[e], b[e]));
      pixel[phase].write(to + (phase / 2 * 2 * int64_t(w) + phase % 2) * params.out_pixel);
    }
  }
}

template <class T>
void depth_to_space_cbn_relu_cuda(const T* z, const float* scale, const float* shift, T* out, const DepthToSpaceCbnReluParams& params,
                                  Stream stream) {
  if (params.n * params.h * params.w * params.c == 0) return;
  const bool packets = takes_packets(z, params.z_pixel, params.c) && takes_packets(out, params.out_pixel) &&
                       takes_packets(scale, params.scale_row) && takes_packets(shift, params.shift_row);
  const ChannelBlocks blocks(packets ? params.c / kPacketWidth<T> : params.c);
  launch("depth_to_space_cbn_relu", packets ? depth_to_space_cbn_relu_kernel<T, kPacketWidth<T>> : depth_to_space_cbn_relu_kernel<T, 1>,
         blocks.grid(params.h * params.w, kCells, params.n), blocks.block, 0, stream, z, scale, shift, out, params);
}

#define DI_INSTANTIATE(T) \
  template void depth_to_space_cbn_relu_cuda(const T*, const float*, const float*, T*, const DepthToSpaceCbnReluParams&, Stream);
DI_INSTANTIATE(float)
DI_INSTANTIATE(Half)
DI_INSTANTIATE(BFloat16)

}  // namespace di
