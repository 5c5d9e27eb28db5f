// Channels-last kernels: a thread owns kWidth neighbouring channels, the same for every pixel that it meets, so that what belongs to
// channels stays in registers. kWidth is a 16-byte packet's worth, or 1 where widths or addresses forbid packets.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "launch.cuh"
#include "scalar.h"

namespace di {

template <class T> constexpr int kPacketWidth = 16 / sizeof(T);

// Where a packet lies. A misaligned one is an error of the hardware's; in emulation it lies where it would be aligned, so that a test
// sees wrong numbers.
template <class P> __device__ __forceinline__ P* packet_at(const void* address) {
#ifdef DI_EMULATE_CUDA
  return reinterpret_cast<P*>(uintptr_t(address) & ~uintptr_t(15));
#else
  return static_cast<P*>(const_cast<void*>(address));
#endif
}

// One 16-byte store: left to itself the compiler may take it to pieces.
__device__ __forceinline__ void write_packet(uint4* to, uint4 bits) {
#ifdef DI_EMULATE_CUDA
  *to = bits;
#else
  __stwb(to, bits);
#endif
}

// What a load brings, not yet converted: several of them are in flight in few registers.
template <class T, int kWidth> struct Channels {
  static_assert(kWidth == 1 || kWidth == kPacketWidth<T>);
  using Memory = std::conditional_t<kWidth == 1, T, Packet<T>>;
  Memory memory;

  __device__ __forceinline__ void read(const T* x) {
    if constexpr (kWidth == 1) memory = *x;
    else memory = *packet_at<const Memory>(x);
  }
  __device__ __forceinline__ void write(T* x) const {
    if constexpr (kWidth == 1) *x = memory;
    else {
      uint4 bits;
      memcpy(&bits, &memory, sizeof(bits));
      write_packet(packet_at<uint4>(x), bits);
    }
  }
  __device__ __forceinline__ float operator[](int k) const {
    if constexpr (kWidth == 1) return load(memory);
    else return load(memory.value[k]);
  }
  __device__ __forceinline__ void set(int k, float value) {
    if constexpr (kWidth == 1) memory = narrow<T>(value);
    else memory.value[k] = narrow<T>(value);
  }
};

// kWidth values of a row of floats that belongs to channels, such as a scale.
template <int kWidth> __device__ __forceinline__ void read_row(const float* row, float (&value)[kWidth]) {
  if constexpr (kWidth == 1) value[0] = row[0];
  else
#pragma unroll
    for (int k = 0; k < kWidth; k += 4) {
      const Packet<float> packet = *packet_at<const Packet<float>>(row + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) value[k + i] = packet.value[i];
    }
}

// Whether a tensor allows packets: its address, and each of the distances, in elements, at which a packet may begin.
template <class T, class... D> bool takes_packets(const T* address, D... distances) {
  return uintptr_t(address) % 16 == 0 && ((distances % kPacketWidth<T> == 0) && ...);
}

// A block is [pixels][groups of channels], so that neighbouring threads read neighbouring channels, then the next pixel's. Groups
// beyond a block's share go to other blocks, in equal pieces.
struct ChannelBlocks {
  static constexpr int kThreads = 256;
  dim3 block;
  unsigned pieces;

  explicit ChannelBlocks(int64_t groups) : pieces(unsigned((groups + kThreads - 1) / kThreads)) {
    const unsigned each = unsigned((groups + pieces - 1) / pieces);
    block = dim3(each, kThreads / each);
  }
  // pixels: of a grid.z, each thread taking `each` of them.
  dim3 grid(int64_t pixels, int each, int64_t n) const {
    const int64_t per_block = int64_t(block.y) * each;
    return dim3(unsigned((pixels + per_block - 1) / per_block), pieces, unsigned(n));
  }
};

}  // namespace di
