#include "tail_kernels.h"
#include "tail_math.h"

namespace di::tail {
namespace {

template <class V> void turn(const V* turned, int64_t c, V* planes, int64_t pitch) {
  for (int64_t o = 0; o < c; ++o)
    for (int64_t i = 0; i < kTurned; ++i) planes[o * pitch + i] = turned[i * c + o];
}

template <class V> void convolve(const V* const* above, int64_t pitch, const V* weight, const V* bias, int64_t c, V* out) {
  for (int row = 0; row < kRows; ++row)
    for (int colour = 0; colour < 3; ++colour)
      for (int64_t x = 0; x < kBlock; ++x) {
        V sum = bias[colour];
        for (int64_t o = 0; o < c; ++o)
          for (int u = 0; u < 3; ++u)
            for (int v = 0; v < 3; ++v)
              sum = tail_math::fused(weight[o * 27 + (3 * u + v) * 3 + colour], above[row + u][o * pitch + x + v], sum);
        out[(row * 3 + colour) * kBlock + x] = sum;
      }
}

}  // namespace

extern const Kernels<float> generic_float;
extern const Kernels<double> generic_double;
const Kernels<float> generic_float = {&turn<float>, &convolve<float>};
const Kernels<double> generic_double = {&turn<double>, &convolve<double>};

}  // namespace di::tail
