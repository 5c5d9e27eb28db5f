#include "core/launch.cuh"
#include "unit_rows.h"
#include "unit_rows_math.h"

namespace di {

using namespace unit_rows_math;

// Memory-bound: a warp takes a row, reads it twice (the second time from cache) and writes it once, in 16-byte packets. Rows whose
// length or address forbids packets go element by element, with the same lane owning the same elements, so the sums are the same.
constexpr int kRowsPerBlock = 8;

template <bool kPackets, class T> __device__ __forceinline__ void load_group(const T* x, int64_t left, float (&value)[kUnitRowsWidth]) {
  if constexpr (kPackets) {
    constexpr int kEach = sizeof(Packet<T>) / sizeof(T);
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; k += kEach) {
      const Packet<T> packet = *reinterpret_cast<const Packet<T>*>(x + k);
#pragma unroll
      for (int i = 0; i < kEach; ++i) value[k + i] = load(packet.value[i]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; ++k) value[k] = k < left ? load(x[k]) : 0.0f;
  }
}

template <bool kPackets> __device__ __forceinline__ void store_group(float* y, int64_t left, const float (&value)[kUnitRowsWidth]) {
  if constexpr (kPackets) {
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; k += 4)
      *reinterpret_cast<Packet<float>*>(y + k) = {value[k], value[k + 1], value[k + 2], value[k + 3]};
  } else {
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; ++k)
      if (k < left) y[k] = value[k];
  }
}

template <bool kPackets, class T>
__global__ void __launch_bounds__(kUnitRowsLanes * kRowsPerBlock) unit_rows_kernel(const T* x, float* y, int64_t n, int64_t d) {
  const int64_t row = blockIdx.x * int64_t(kRowsPerBlock) + threadIdx.y;
  if (row >= n) return;   // a whole warp at a time
  x += row * d;
  y += row * d;
  const int64_t first = threadIdx.x * kUnitRowsWidth, step = kUnitRowsLanes * kUnitRowsWidth;
  float value[kUnitRowsWidth];
  double partial[kUnitRowsWidth] = {};
#pragma unroll 4
  for (int64_t i = first; i < d; i += step) {
    load_group<kPackets>(x + i, d - i, value);
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; ++k) partial[k] += exact_square(value[k]);
  }
  double sum = sum_of_lane(partial);
  for (int apart = kUnitRowsLanes / 2; apart; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
  const double scale = inverse_norm(sum);
#pragma unroll 4
  for (int64_t i = first; i < d; i += step) {
    load_group<kPackets>(x + i, d - i, value);
#pragma unroll
    for (int k = 0; k < kUnitRowsWidth; ++k) value[k] = scale_to_unit(value[k], scale);
    store_group<kPackets>(y + i, d - i, value);
  }
}

template <class T> void unit_rows_cuda(const T* x, float* y, const UnitRowsParams& params, Stream stream) {
  if (params.n == 0) return;
  const bool packets = params.d % kUnitRowsWidth == 0 && (uintptr_t(x) | uintptr_t(y)) % sizeof(Packet<T>) == 0;
  const dim3 grid(unsigned((params.n + kRowsPerBlock - 1) / kRowsPerBlock)), block(kUnitRowsLanes, kRowsPerBlock);
  launch("unit_rows", packets ? unit_rows_kernel<true, T> : unit_rows_kernel<false, T>, grid, block, 0, stream, x, y, params.n, params.d);
}

template void unit_rows_cuda(const float*, float*, const UnitRowsParams&, Stream);
template void unit_rows_cuda(const Half*, float*, const UnitRowsParams&, Stream);
template void unit_rows_cuda(const BFloat16*, float*, const UnitRowsParams&, Stream);

}  // namespace di
