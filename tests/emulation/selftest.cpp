// g++ -std=c++17 -I tests/emulation tests/emulation/selftest.cpp && ./a.out      exits 0 when the emulator does what it promises
#include "cuda_runtime.h"

#include <cstdio>

// Row sums of an [rows, columns] matrix, one block a row: shuffles within a warp, shared memory across warps.
__global__ void row_sum(const float* x, float* sum, int columns) {
  __shared__ float partial[32];
  float value = 0;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) value += x[blockIdx.x * columns + c];
  for (int mask = 16; mask; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (unsigned w = 0; w < (blockDim.x + 31) / 32; ++w) total += partial[w];
    sum[blockIdx.x] = total;
  }
}

// The same mistake everybody makes once: reads a neighbour's slot without a barrier.
__global__ void racy_shift(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[(threadIdx.x + 1) % blockDim.x];
}

__global__ void uneven_barrier(float* y) {
  if (threadIdx.x < 48) __syncthreads();
  else __syncwarp();
  y[threadIdx.x] = 1;
}

int main() {
  int failures = 0;
  const auto check = [&](const char* what, bool ok) { std::printf("%s %s\n", ok ? "ok   " : "FAILS", what); failures += !ok; };
  std::vector<float> x(3 * 100), y(64), z(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 17) - 8;
  for (const char* order : {"forward", "reverse", "5"}) {
    setenv("DI_EMULATE_ORDER", order, 1);
    std::vector<float> sum(3, -1);
    di::emulation::launch(row_sum, dim3(3), dim3(64), 0, (const float*)x.data(), sum.data(), 100);
    bool right = true;
    for (int r = 0; r < 3; ++r) right &= sum[r] == std::accumulate(x.begin() + 100 * r, x.begin() + 100 * r + 100, 0.0f);
    check("shuffles and barriers give the row sums", right);
  }
  setenv("DI_EMULATE_ORDER", "forward", 1);
  di::emulation::launch(racy_shift, dim3(1), dim3(64), 0, (const float*)x.data(), y.data());
  setenv("DI_EMULATE_ORDER", "reverse", 1);
  di::emulation::launch(racy_shift, dim3(1), dim3(64), 0, (const float*)x.data(), z.data());
  check("a race shows as a difference between orders", y != z);
  bool caught = false;
  try { di::emulation::launch(uneven_barrier, dim3(1), dim3(64), 0, y.data()); } catch (const std::logic_error&) { caught = true; }
  check("a barrier that some threads miss is an error", caught);
  return failures;
}
