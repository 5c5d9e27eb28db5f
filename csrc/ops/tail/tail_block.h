// The convolution, once for the instruction sets that have a fused multiply-add; as winograd_block.h. V: core/vector_avx2.h.
// No #pragma once: it belongs to the namespace that it is included in.

using di::tail::kBlock;
using di::tail::kRows;
using di::tail::kTurned;

template <class V> using Element = typename V::Element;

// B pixels of kRows rows: every activated pixel that is loaded serves all rows and colours.
template <class V, int B>
void convolve_part(const Element<V>* const* above, int64_t pitch, const Element<V>* weight, const Element<V>* bias, int64_t c,
                   Element<V>* out) {
  constexpr int W = V::kWidth, N = B / W;
  V sum[kRows][3][N];
#pragma GCC unroll 2
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 3
    for (int colour = 0; colour < 3; ++colour)
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) sum[row][colour][i] = V::all(bias[colour]);
  for (int64_t o = 0; o < c; ++o, weight += 27) {
#pragma GCC unroll 4
    for (int k = 0; k < kRows + 2; ++k)
#pragma GCC unroll 3
      for (int v = 0; v < 3; ++v) {
        V a[N];
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i) a[i] = V::load(above[k] + o * pitch + v + i * W);
#pragma GCC unroll 2
        for (int row = 0; row < kRows; ++row) {
          const int u = k - row;   // the row of the kernel that this activated row meets
          if (u < 0 || u > 2) continue;
#pragma GCC unroll 3
          for (int colour = 0; colour < 3; ++colour) {
            const V w = V::all(weight[(3 * u + v) * 3 + colour]);
#pragma GCC unroll 4
            for (int i = 0; i < N; ++i) sum[row][colour][i] = V::plus_product(w, a[i], sum[row][colour][i]);
          }
        }
      }
  }
#pragma GCC unroll 2
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 3
    for (int colour = 0; colour < 3; ++colour)
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) sum[row][colour][i].store(out + (row * 3 + colour) * kBlock + i * W);
}

// Two vectors of pixels: with two rows and three colours twelve sums, which hide the latency of a multiply-add.
template <class V>
void convolve(const Element<V>* const* above, int64_t pitch, const Element<V>* weight, const Element<V>* bias, int64_t c, Element<V>* out) {
  constexpr int B = 2 * V::kWidth;
  static_assert(kBlock % B == 0);
  const Element<V>* part[kRows + 2];
  for (int64_t x = 0; x < kBlock; x += B) {
    for (int k = 0; k < kRows + 2; ++k) part[k] = above[k] + x;
    convolve_part<V, B>(part, pitch, weight, bias, c, out + x);
  }
}

// 8 pixels of 8 channels.
inline __attribute__((always_inline)) void turn_square(const float* from, int64_t c, float* to, int64_t pitch) {
  __m256 r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * c);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44), r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44), r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * pitch, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * pitch, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

template <class T> void turn(const T* turned, int64_t c, T* planes, int64_t pitch) {
  int64_t o = 0;
  if constexpr (sizeof(T) == 4)
    for (; o + 8 <= c; o += 8)
      for (int64_t i = 0; i < kTurned; i += 8) turn_square(turned + i * c + o, c, planes + o * pitch + i, pitch);
  for (; o < c; ++o)
    for (int64_t i = 0; i < kTurned; ++i) planes[o * pitch + i] = turned[i * c + o];
}
