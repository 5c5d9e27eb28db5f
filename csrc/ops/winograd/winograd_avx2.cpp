#include <cstdint>

#include "winograd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")
#include "winograd_math.h"   // behind the pragma: a template is compiled for what holds where it stands

namespace di::winograd {
namespace avx2 {

#define DI_INLINE static inline __attribute__((always_inline))
#define DI_OPERATOR(op, intrinsic) \
  friend inline __attribute__((always_inline)) Vector operator op(Vector a, Vector b) { return {intrinsic(a.v, b.v)}; }

template <class T> struct Vector;

template <> struct Vector<float> {
  using Element = float;
  static constexpr int kWidth = 8;
  __m256 v;
  DI_INLINE Vector load(const float* p) { return {_mm256_loadu_ps(p)}; }
  DI_INLINE Vector all(float x) { return {_mm256_set1_ps(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.v)}; }   // in this order NaN stays
  inline __attribute__((always_inline)) void store(float* p) const { _mm256_storeu_ps(p, v); }
  DI_OPERATOR(+, _mm256_add_ps)
  DI_OPERATOR(-, _mm256_sub_ps)
  DI_OPERATOR(*, _mm256_mul_ps)
};

template <> struct Vector<double> {
  using Element = double;
  static constexpr int kWidth = 4;
  __m256d v;
  DI_INLINE Vector load(const double* p) { return {_mm256_loadu_pd(p)}; }
  DI_INLINE Vector all(double x) { return {_mm256_set1_pd(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm256_max_pd(_mm256_setzero_pd(), a.v)}; }
  inline __attribute__((always_inline)) void store(double* p) const { _mm256_storeu_pd(p, v); }
  DI_OPERATOR(+, _mm256_add_pd)
  DI_OPERATOR(-, _mm256_sub_pd)
  DI_OPERATOR(*, _mm256_mul_pd)
};

#include "winograd_block.h"

}  // namespace avx2

// 12 sums, 2 weights and an input: 15 of 16 registers.
extern const Kernels<float> avx2_float;
extern const Kernels<double> avx2_double;
const Kernels<float> avx2_float = avx2::kernels<avx2::Vector<float>, 6, 2>();
const Kernels<double> avx2_double = avx2::kernels<avx2::Vector<double>, 6, 2>();

}  // namespace di::winograd
#endif
