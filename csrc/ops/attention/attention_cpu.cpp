#include <algorithm>
#include <atomic>
#include <cstdint>

#include "attention_kernels.h"
#include "core/thread_pool.h"

namespace di {

using namespace attention;

namespace {

template <class T> constexpr KernelSets<Kernels<T>> kSets{};
template <> constexpr KernelSets<Kernels<float>> kSets<float>{{&generic_float, DI_X86(&avx2_float), DI_X86(&avx512_float)}};
template <> constexpr KernelSets<Kernels<double>> kSets<double>{{&generic_double, DI_X86(&avx2_double), DI_X86(&avx512_double)}};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kLine = 64;   // bytes of a cache line
template <class T> constexpr int64_t kBlock = kQueryBytes / sizeof(T);

// Elements of the parts of the workspace.
template <class T> struct Parts {
  int64_t queries, weights, values, outputs;
  Parts(const AttentionParams& p, const Kernels<T>& kernels)
      : queries(p.d * kBlock<T>),
        weights(p.keys * kBlock<T>),
        values(kKeys * kernels.panel),
        outputs(kBlock<T> * divide_up(p.e, kernels.width) * kernels.width) {}
  int64_t bytes() const { return divide_up((queries + 2 * kBlock<T> + weights + values + outputs) * sizeof(T), kLine) * kLine; }
};

}  // namespace

template <class T> int64_t attention_workspace(const AttentionParams& params, Instructions instructions) {
  return Parts<T>(params, kSets<T>[instructions]).bytes();
}

template <class T>
void attention_cpu(const AttentionTensors<T>& tensors, const AttentionParams& params, Instructions instructions, void* workspace,
                   int threads) {
  const Kernels<T>& kernels = kSets<T>[instructions];
  const Parts<T> parts(params, kernels);
  const int64_t blocks = divide_up(params.queries, kBlock<T>), items = params.n * blocks;
  if (!items) return;
  std::atomic<int64_t> next{0};
  // A range of this loop is a share of the workspace, not of the work.
  parallel_for(std::min<int64_t>(threads, items), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      T* queries = reinterpret_cast<T*>(static_cast<char*>(workspace) + share * parts.bytes());
      T* largest = queries + parts.queries;
      T* sums = largest + kBlock<T>;
      T* weights = sums + kBlock<T>;
      T* values = weights + parts.weights;
      T* outputs = values + parts.values;
      for (int64_t item; (item = next++) < items;) {
        const int64_t first = item % blocks * kBlock<T>, count = std::min(kBlock<T>, params.queries - first);
        kernels.run({tensors, params, item / blocks, first, count, queries, largest, sums, weights, values, outputs});
      }
    }
  });
}

template int64_t attention_workspace<float>(const AttentionParams&, Instructions);
template int64_t attention_workspace<double>(const AttentionParams&, Instructions);
template void attention_cpu(const AttentionTensors<float>&, const AttentionParams&, Instructions, void*, int);
template void attention_cpu(const AttentionTensors<double>&, const AttentionParams&, Instructions, void*, int);

}  // namespace di
