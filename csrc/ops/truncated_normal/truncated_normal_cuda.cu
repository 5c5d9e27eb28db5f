#include "core/launch.cuh"
#include "truncated_normal.h"
#include "truncated_normal_math.h"

namespace di {

// Bound by double arithmetic, not by memory. A thread computes the two elements of one Philox block.
template <class T>
__global__ void __launch_bounds__(256)
    truncated_normal_kernel(const int64_t* __restrict__ index, const int64_t* __restrict__ repeat, T* out,
                            TruncatedNormalParams params) {
  const int64_t blocks = (params.count + 1) / 2, step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t k = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; k < params.n * blocks; k += step) {
    const int64_t row = k / blocks, j = k % blocks * 2;
    const PhiloxBlock block = random_block(params.key, index[row], repeat[row], uint32_t(j / 2));
    T* pair = out + row * params.count + j;
    pair[0] = round_to<T>(truncated_normal(bits64(block, 0), params));
    if (j + 1 < params.count) pair[1] = round_to<T>(truncated_normal(bits64(block, 1), params));
  }
}

template <class T>
void truncated_normal_cuda(const int64_t* index, const int64_t* repeat, T* out, const TruncatedNormalParams& params,
                           Stream stream) {
  const int64_t threads = params.n * ((params.count + 1) / 2);
  if (threads == 0) return;
  const int64_t wanted = (threads + 255) / 256, enough = 16LL * sm_count();
  const dim3 grid(unsigned(wanted < enough ? wanted : enough));
  launch("truncated_normal", truncated_normal_kernel<T>, grid, dim3(256), 0, stream, index, repeat, out, params);
}

template void truncated_normal_cuda(const int64_t*, const int64_t*, double*, const TruncatedNormalParams&, Stream);
template void truncated_normal_cuda(const int64_t*, const int64_t*, float*, const TruncatedNormalParams&, Stream);
template void truncated_normal_cuda(const int64_t*, const int64_t*, Half*, const TruncatedNormalParams&, Stream);
template void truncated_normal_cuda(const int64_t*, const int64_t*, BFloat16*, const TruncatedNormalParams&, Stream);

}  // namespace di
