// Runs CUDA kernels on the CPU, thread by thread, so that a machine without a GPU can test their indexing, bounds and barriers.
//
// Stands in for <cuda_runtime.h> when a .cu file is compiled as C++ with DI_EMULATE_CUDA. A block's threads are fibers; blocks run
// one after the other. Between two barriers threads run in the order that DI_EMULATE_ORDER names (forward, reverse, or a number
// that seeds a shuffle): a kernel whose result depends on it has a race. A barrier that not all threads reach is an error.
// Device memory is host memory, so AddressSanitizer sees every load and store. Not a model of speed, nor of warp-level hardware
// beyond the shuffles below.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
constexpr cudaError_t cudaErrorInsufficientDriver = 35;
constexpr int cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76;
#define CUDART_VERSION 13000
// DI_EMULATE_DRIVER: the CUDA version of the driver, 13000 by default; DI_EMULATE_CAPABILITY: of the GPU, 90 by default.
inline int emulated_number(const char* name, int otherwise) {
  const char* wish = std::getenv(name);
  return wish ? std::atoi(wish) : otherwise;
}
inline cudaError_t cudaDriverGetVersion(int* version) { *version = emulated_number("DI_EMULATE_DRIVER", 13000); return cudaSuccess; }
struct uint4 { unsigned x, y, z, w; };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return emulated_number("DI_EMULATE_DRIVER", 13000) < CUDART_VERSION / 1000 * 1000 ? cudaErrorInsufficientDriver : cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = emulated_number("DI_EMULATE_CAPABILITY", 90);
  *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

namespace di::emulation {

enum class State { ready, at_block_barrier, at_warp_barrier, done };

class Block {
 public:
  Block(dim3 shape, size_t shared_bytes, std::function<void()> body)
      : shape_(shape), body_(std::move(body)), shared_(shared_bytes / 16 + 1, Word{~0ull, ~0ull}) {}   // poisoned: reads as NaN

  void run() {
    const int count = int(shape_.x * shape_.y * shape_.z);
    threads_ = std::vector<Thread>(count);
    exchange_.assign(count, 0);
    active() = this;
    for (Thread& thread : threads_) {
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = &scheduler_;
      makecontext(&thread.context, &Block::enter, 0);
    }
    const std::vector<int> order = running_order(count);
    for (int left = count; left;) {
      bool moved = false;
      for (int t : order) {
        if (threads_[t].state != State::ready) continue;
        moved = true;
        current_ = t;
        threadIdx = dim3(t % shape_.x, t / shape_.x % shape_.y, t / (shape_.x * shape_.y));
        swapcontext(&scheduler_, &threads_[t].context);
        left -= threads_[t].state == State::done;
      }
      if (!release() && !moved) throw std::logic_error("a barrier was not reached by all threads of its block");
    }
  }

  void wait(State at) {
    threads_[current_].state = at;
    swapcontext(&threads_[current_].context, &scheduler_);
  }

  uint64_t shuffle(uint64_t value, int source_lane) {
    const int warp = current_ / 32 * 32, self = current_;
    exchange_[self] = value;
    wait(State::at_warp_barrier);
    const int source = warp + source_lane;
    const uint64_t out = source < int(exchange_.size()) ? exchange_[source] : value;
    wait(State::at_warp_barrier);
    return out;
  }

  int lane() const { return current_ % 32; }
  void* shared() { return shared_.data(); }
  static Block*& active() { static Block* block = nullptr; return block; }

 private:
  static constexpr size_t kStack = 64 * 1024;
  struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    State state = State::ready;
  };

  static void enter() {
    Block& block = *active();
    block.body_();
    block.threads_[block.current_].state = State::done;
  }

  std::vector<int> running_order(int count) const {
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    const char* wish = std::getenv("DI_EMULATE_ORDER");
    if (wish && !strcmp(wish, "reverse")) std::reverse(order.begin(), order.end());
    else if (wish && strcmp(wish, "forward")) std::shuffle(order.begin(), order.end(), std::mt19937(unsigned(std::atoi(wish))));
    return order;
  }

  // Wakes every barrier that all its living threads have reached. An exited thread counts as absent, as on the hardware.
  bool release() {
    const auto all_at = [&](size_t first, size_t last, State at) {
      bool any = false;
      for (size_t t = first; t < last; ++t) {
        if (threads_[t].state == State::done) continue;
        if (threads_[t].state != at) return false;
        any = true;
      }
      return any;
    };
    bool woke = false;
    const auto wake = [&](size_t first, size_t last) {
      for (size_t t = first; t < last; ++t)
        if (threads_[t].state != State::done) threads_[t].state = State::ready;
      woke = true;
    };
    if (all_at(0, threads_.size(), State::at_block_barrier)) wake(0, threads_.size());
    for (size_t warp = 0; warp < threads_.size(); warp += 32) {
      const size_t end = std::min(warp + 32, threads_.size());
      if (all_at(warp, end, State::at_warp_barrier)) wake(warp, end);
    }
    return woke;
  }

  struct alignas(16) Word { uint64_t low, high; };

  dim3 shape_;
  std::function<void()> body_;
  std::vector<Word> shared_;
  std::vector<Thread> threads_;
  std::vector<uint64_t> exchange_;
  ucontext_t scheduler_;
  int current_ = 0;
};

template <class... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, P... arguments) {
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        Block(block, shared_bytes, [&] { kernel(arguments...); }).run();
      }
}

}  // namespace di::emulation

inline void __syncthreads() { di::emulation::Block::active()->wait(di::emulation::State::at_block_barrier); }
inline void __syncwarp(unsigned = ~0u) { di::emulation::Block::active()->wait(di::emulation::State::at_warp_barrier); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8);
  di::emulation::Block& block = *di::emulation::Block::active();
  uint64_t word = 0;
  memcpy(&word, &value, sizeof(T));
  word = block.shuffle(word, block.lane() ^ mask);
  memcpy(&value, &word, sizeof(T));
  return value;
}
