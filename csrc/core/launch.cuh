// What every launcher needs: 16-byte packets, the card's size, one way to launch, dynamic shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "stream.h"

namespace di {

template <class T> struct alignas(16) Packet { T value[16 / sizeof(T)]; };

inline int sm_count() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

inline void check_cuda(const char* name, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(error));
}

// Launches on the stream with shared_bytes of dynamic shared memory and checks that the launch was accepted. On a machine without
// a GPU the tests run the same kernel through tests/emulation.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, A... arguments) {
#ifdef DI_EMULATE_CUDA
  (void)name, (void)stream;
  emulation::launch(kernel, grid, block, shared_bytes, static_cast<P>(arguments)...);
#else
  if (shared_bytes > 48 * 1024)   // more than the static limit must be asked for, kernel by kernel
    check_cuda(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(static_cast<P>(arguments)...);
  check_cuda(name, cudaGetLastError());
#endif
}

// The block's dynamic shared memory, aligned to 16 bytes.
template <class T> __device__ __forceinline__ T* dynamic_shared() {
#ifdef DI_EMULATE_CUDA
  return reinterpret_cast<T*>(emulation::Block::active()->shared());
#else
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#endif
}

}  // namespace di
