#include "assemble.h"
#include "assemble_math.h"
#include "core/launch.cuh"

namespace di {
inline namespace assembling {   // has a name: nvcc gives a nameless one a name from where the file lies, and no two builds are alike

// A warp makes one row of a tile: it sums source rows into shared memory, a chunk of the source's width at a time, then each
// thread sums columns of the chunk into its own 16 bytes of every channel. The tile's rows share the taps of its columns.
constexpr int kWarp = 32, kRows = 8, kChunk = 384;   // kChunk in pixels: a 224 pixel row of the usual crop is one chunk

template <class T> constexpr int kWidth = 16 / sizeof(T);
template <class T> constexpr int kColumns = kWarp * kWidth<T>;

// line[e * step] = sum over k of weight(k) * source[k * stride + e]
template <class S>
__device__ void vertical_pass(const S* source, int64_t stride, const TriangleFilter& filter, const Taps& taps, int length,
                              float* line, int step) {
  constexpr int kUnroll = 4;
  for (int start = threadIdx.x; start < length; start += kWarp * kUnroll) {
    float sum[kUnroll] = {};
    const S* row = source + start;
    for (int k = 0; k < filter.count(); ++k, row += stride) {
      const float weight = filter.weight(taps, k);
      if (weight == 0) continue;
#pragma unroll
      for (int j = 0; j < kUnroll; ++j)
        if (start + j * kWarp < length) sum[j] += weight * load(row[j * kWarp]);
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j)
      if (start + j * kWarp < length) line[(start + j * kWarp) * step] = sum[j];
  }
}

template <class S>
__device__ void vertical_pass(const AssembleRow& image, const TriangleFilter& filter, const Taps& taps, int x, int length,
                              float* line) {
  const S* source = static_cast<const S*>(image.data) + taps.first * image.row_stride;
  if (image.channel_stride == 1) vertical_pass(source + 3 * int64_t(x), image.row_stride, filter, taps, 3 * length, line, 1);
  else
    for (int c = 0; c < 3; ++c)
      vertical_pass(source + c * image.channel_stride + x, image.row_stride, filter, taps, length, line + c, 3);
}

template <class G, class T>
__global__ void __launch_bounds__(kWarp * kRows, 3)   // three blocks a multiprocessor: with more, registers spill
    assemble_kernel(const AssembleRow* rows, T* out, AssembleParams params, bool packets) {
  const AssembleRow& image = rows[blockIdx.y];
  const int tiles = (params.width + kColumns<T> - 1) / kColumns<T>;
  const int left = blockIdx.x % tiles * kColumns<T>, y = blockIdx.x / tiles * kRows + threadIdx.y;
  const int tile = params.width - left < kColumns<T> ? params.width - left : kColumns<T>;

  // Column lane * kWidth + i is at [i][lane], where a warp's threads meet different banks.
  Taps* const columns = dynamic_shared<Taps>();
  const auto slot = [](int column) { return column % kWidth<T> * kWarp + column / kWidth<T>; };
  const TriangleFilter across(image.offset_x, image.scale_x, image.width);
  for (int column = threadIdx.y * kWarp + threadIdx.x; column < tile; column += kWarp * kRows)
    columns[slot(column)] = across.taps(image.flip ? params.width - 1 - left - column : left + column);
  __syncthreads();
  if (y >= params.height) return;

  const TriangleFilter down(image.offset_y, image.scale_y, image.height);
  const Taps taps = down.taps(y);
  float* const line = reinterpret_cast<float*>(columns + kColumns<T>) + threadIdx.y * 3 * kChunk;
  const int one_end = columns[slot(0)].first, other_end = columns[slot(tile - 1)].first;
  const int begin = one_end < other_end ? one_end : other_end, end = one_end + other_end - begin + across.count();
  const int mine = threadIdx.x * kWidth<T>;
  float sum[kWidth<T>][3] = {};
  for (int x = begin; x < end; x += kChunk) {
    const int length = end - x < kChunk ? end - x : kChunk;
    if (image.generated) vertical_pass<G>(image, down, taps, x, length, line);
    else vertical_pass<uint8_t>(image, down, taps, x, length, line);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kWidth<T>; ++i) {
      if (mine + i >= tile) continue;
      const Taps column = columns[i * kWarp + threadIdx.x];
      const int first = column.first < x ? x - column.first : 0;
      const int last = column.first + across.count() > x + length ? x + length - column.first : across.count();
      const float* value = line + 3 * (column.first + first - x);
      for (int k = first; k < last; ++k, value += 3) {
        const float weight = across.weight(column, k);
        sum[i][0] += weight * value[0];
        sum[i][1] += weight * value[1];
        sum[i][2] += weight * value[2];
      }
    }
    __syncwarp();
  }

  if (mine >= tile) return;
  const int64_t plane = int64_t(params.height) * params.width;
  const int64_t pixel = int64_t(y) * params.width + left + mine;
  const int between = params.channels_last ? 3 : 1;   // pixels
  out += blockIdx.y * 3 * plane + pixel * between;
  Packet<T> packet[3];
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i)
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float scale = image.generated ? params.scale[1][c] : params.scale[0][c];
      const float shift = image.generated ? params.shift[1][c] : params.shift[0][c];
      const T value = store<T>(sum[i][c] * scale + shift);
      if (params.channels_last) packet[(3 * i + c) / kWidth<T>].value[(3 * i + c) % kWidth<T>] = value;
      else packet[c].value[i] = value;
      if (!packets && mine + i < tile) out[i * between + (params.channels_last ? c : c * plane)] = value;
    }
  if (packets)
#pragma unroll
    for (int c = 0; c < 3; ++c)
      *reinterpret_cast<Packet<T>*>(out + (params.channels_last ? c * kWidth<T> : c * plane)) = packet[c];
}

}  // inline namespace assembling

template <class G, class T>
void assemble_cuda(const AssembleRow* rows, T* out, const AssembleParams& params, Stream stream) {
  if (params.n == 0) return;
  const int tiles = (params.width + kColumns<T> - 1) / kColumns<T> * ((params.height + kRows - 1) / kRows);
  const bool packets = params.width % kWidth<T> == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  launch("assemble", assemble_kernel<G, T>, dim3(tiles, unsigned(params.n)), dim3(kWarp, kRows),
         sizeof(Taps) * kColumns<T> + sizeof(float) * kRows * 3 * kChunk, stream, rows, out, params, packets);
}

#define DI_INSTANTIATE(G, T) template void assemble_cuda<G, T>(const AssembleRow*, T*, const AssembleParams&, Stream);
DI_INSTANTIATE(float, float) DI_INSTANTIATE(float, Half) DI_INSTANTIATE(float, BFloat16)
DI_INSTANTIATE(Half, float) DI_INSTANTIATE(Half, Half) DI_INSTANTIATE(Half, BFloat16)
DI_INSTANTIATE(BFloat16, float) DI_INSTANTIATE(BFloat16, Half) DI_INSTANTIATE(BFloat16, BFloat16)

}  // namespace di
