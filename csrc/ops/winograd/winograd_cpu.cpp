#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>

#include "core/thread_pool.h"
#include "winograd_kernels.h"

namespace di {

using namespace winograd;

namespace {

template <class T> constexpr KernelSets<Kernels<T>> kSets{};
template <> constexpr KernelSets<Kernels<float>> kSets<float>{{&generic_float, DI_X86(&avx2_float), DI_X86(&avx512_float)}};
template <> constexpr KernelSets<Kernels<double>> kSets<double>{{&generic_double, DI_X86(&avx2_double), DI_X86(&avx512_double)}};
template <> constexpr KernelSets<Kernels<BFloat16>> kSets<BFloat16>{{&generic_bfloat16, nullptr, DI_X86(&avx512_bfloat16),
                                                                        DI_X86(&avx512_bf16_bfloat16)}};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kLine = 64;            // bytes of a cache line
constexpr int64_t kBlock = 48;           // tiles: the block's two matrices stay near the second-level cache,
constexpr int64_t kLargeBlock = 96;      // but large weights come from memory for every block
constexpr int64_t kLargeWeights = 4 << 20;
constexpr int64_t kPixels = 128;         // by taps: of whole samples, as many of them as have no more
constexpr int64_t kGroup = 4;            // panels of outputs between two output transforms

template <class T> Plan plan_of(const WinogradParams& p, const Kernels<T>& kernels) {
  Plan plan{};
  const int64_t side = p.m + p.r - 1, width = kernels.layout.width, panel = kernels.layout.panel;
  plan.by_taps = p.doubled && p.m == 1;
  plan.out_height = winograd_out_size(p, p.height), plan.out_width = winograd_out_size(p, p.width);
  plan.tiles_y = plan.by_taps ? 1 : divide_up(plan.out_height, p.m), plan.tiles_x = plan.by_taps ? 1 : divide_up(plan.out_width, p.m);
  plan.tiles = p.n * plan.tiles_y * plan.tiles_x, plan.tile_rows = plan.by_taps ? p.height * p.width : 1;
  plan.planes = plan.by_taps ? 9 : p.m > 1 ? side * side : 1;
  plan.depth = divide_up((p.m > 1 || plan.by_taps ? 1 : p.r * p.r) * p.inputs, width) * width;
  plan.columns = (p.doubled && !plan.by_taps ? 4 : 1) * p.outputs / width;
  const int64_t weights = sizeof(T) * plan.planes * plan.depth * plan.columns * width;
  const int64_t most = plan.by_taps ? std::max<int64_t>(kPixels / plan.tile_rows, 1) : weights > kLargeWeights ? kLargeBlock : kBlock;
  plan.block = plan.tiles ? divide_up(plan.tiles, divide_up(plan.tiles, most)) : 1;
  plan.rows = plan.block * plan.tile_rows;
  plan.group = std::min(plan.columns, (plan.rows > kLargeBlock ? 1 : kGroup) * panel);
  // A line more, so that the planes of one tile do not all meet in one set of the cache.
  plan.input_plane = plan.by_taps ? 0 : plan.rows * plan.depth + kLine / kernels.given;
  plan.output_plane = plan.rows * plan.group * width + kLine / sizeof(Wide<T>);
  return plan;
}

int64_t lines(int64_t bytes) { return divide_up(bytes, kLine) * kLine; }

template <class T> int64_t input_bytes(const Plan& plan, const Kernels<T>& kernels) {
  return lines((plan.by_taps ? plan.rows * plan.depth : plan.planes * plan.input_plane) * kernels.given);
}
template <class T> int64_t output_bytes(const Plan& plan) { return lines(plan.planes * plan.output_plane * sizeof(Wide<T>)); }

template <class T> int64_t workspace_of(const Plan& plan, const Kernels<T>& kernels) {
  return input_bytes<T>(plan, kernels) + output_bytes<T>(plan) + lines(plan.depth * sizeof(T));
}

}  // namespace

template <class T> WinogradLayout winograd_layout(Instructions instructions) { return kSets<T>[instructions].layout; }

template <class T> int64_t winograd_workspace(const WinogradParams& params, Instructions instructions) {
  const Kernels<T>& kernels = kSets<T>[instructions];
  return workspace_of<T>(plan_of(params, kernels), kernels);
}

template <class T>
void winograd_cpu(const WinogradTensors<T>& tensors, const WinogradParams& params, Instructions instructions, void* workspace,
                  int threads) {
  const Kernels<T>& kernels = kSets<T>[instructions];
  const Plan plan = plan_of(params, kernels);
  if (!plan.tiles) return;
  // Outputs are split only where tiles do not keep the threads busy: every part transforms its inputs anew.
  const int64_t blocks = divide_up(plan.tiles, plan.block), panels = divide_up(plan.columns, kernels.layout.panel);
  const int64_t wanted = blocks >= 4 * threads ? 1 : threads / std::gcd(blocks, int64_t(threads));
  const int64_t part = divide_up(panels, std::min(wanted, panels)) * kernels.layout.panel;
  const int64_t parts = divide_up(plan.columns, part), items = blocks * parts, bytes = workspace_of<T>(plan, kernels);
  std::atomic<int64_t> next{0};
  // A range of this loop is a share of the workspace, not of the work.
  parallel_for(std::min<int64_t>(threads, items), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      char* room = static_cast<char*>(workspace) + share * bytes;
      char* inputs = room;
      Wide<T>* outputs = reinterpret_cast<Wide<T>*>(room + input_bytes<T>(plan, kernels));
      T* row = reinterpret_cast<T*>(room + input_bytes<T>(plan, kernels) + output_bytes<T>(plan));
      for (int64_t item; (item = next++) < items;) {
        const int64_t first_tile = item % blocks * plan.block, first_column = item / blocks * part;
        kernels.run({tensors, params, plan, first_tile, std::min(plan.block, plan.tiles - first_tile), first_column,
                     std::min(first_column + part, plan.columns), inputs, outputs, row});
      }
    }
  });
}

template WinogradLayout winograd_layout<float>(Instructions);
template WinogradLayout winograd_layout<double>(Instructions);
template WinogradLayout winograd_layout<BFloat16>(Instructions);
template int64_t winograd_workspace<float>(const WinogradParams&, Instructions);
template int64_t winograd_workspace<double>(const WinogradParams&, Instructions);
template int64_t winograd_workspace<BFloat16>(const WinogradParams&, Instructions);
template void winograd_cpu(const WinogradTensors<float>&, const WinogradParams&, Instructions, void*, int);
template void winograd_cpu(const WinogradTensors<double>&, const WinogradParams&, Instructions, void*, int);
template void winograd_cpu(const WinogradTensors<BFloat16>&, const WinogradParams&, Instructions, void*, int);

}  // namespace di
