#include <cstdint>

#include "winograd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"   // GCC 12 says so of its own intrinsics (its bug 105593)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#include "winograd_math.h"   // behind the pragma: a template is compiled for what holds where it stands

namespace di::winograd {
namespace avx512 {

#define DI_INLINE static inline __attribute__((always_inline))
#define DI_OPERATOR(op, intrinsic) \
  friend inline __attribute__((always_inline)) Vector operator op(Vector a, Vector b) { return {intrinsic(a.v, b.v)}; }

template <class T> struct Vector;

template <> struct Vector<float> {
  using Element = float;
  static constexpr int kWidth = 16;
  __m512 v;
  DI_INLINE Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
  DI_INLINE Vector all(float x) { return {_mm512_set1_ps(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm512_max_ps(_mm512_setzero_ps(), a.v)}; }   // in this order NaN stays
  inline __attribute__((always_inline)) void store(float* p) const { _mm512_storeu_ps(p, v); }
  DI_OPERATOR(+, _mm512_add_ps)
  DI_OPERATOR(-, _mm512_sub_ps)
  DI_OPERATOR(*, _mm512_mul_ps)
};

template <> struct Vector<double> {
  using Element = double;
  static constexpr int kWidth = 8;
  __m512d v;
  DI_INLINE Vector load(const double* p) { return {_mm512_loadu_pd(p)}; }
  DI_INLINE Vector all(double x) { return {_mm512_set1_pd(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm512_max_pd(_mm512_setzero_pd(), a.v)}; }
  inline __attribute__((always_inline)) void store(double* p) const { _mm512_storeu_pd(p, v); }
  DI_OPERATOR(+, _mm512_add_pd)
  DI_OPERATOR(-, _mm512_sub_pd)
  DI_OPERATOR(*, _mm512_mul_pd)
};

#include "winograd_block.h"

}  // namespace avx512

// 24 sums and 2 weights: 27 of 32 registers.
extern const Kernels<float> avx512_float;
extern const Kernels<double> avx512_double;
const Kernels<float> avx512_float = avx512::kernels<avx512::Vector<float>, 12, 2>();
const Kernels<double> avx512_double = avx512::kernels<avx512::Vector<double>, 12, 2>();

}  // namespace di::winograd
#endif
