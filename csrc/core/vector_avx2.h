// AVX2 and FMA: 32 bytes. Included behind a target pragma, inside a namespace of the op's own and the instruction set's, so that no two
// translation units share a function; hence no #pragma once, and <immintrin.h> comes from the includer. What a Vector has:
//   Element in memory, Number in the vector, kWidth of them, load, store, all, +, -, *, relu
//   plus_product(a, b, c) = c + a b, minus_product(a, b, c) = c - a b
//   largest(a, b): b where one is NaN    zero_below(x, limit, a): 0 where x < limit, else a, also where x is NaN
//   power(t) = 2^(the low bits of t's mantissa, less the exponent's bias)

#define DI_INLINE static inline __attribute__((always_inline))
#define DI_OPERATOR(op, intrinsic) \
  friend inline __attribute__((always_inline)) Vector operator op(Vector a, Vector b) { return {intrinsic(a.v, b.v)}; }

template <class T> struct Vector;

template <> struct Vector<float> {
  using Element = float;
  using Number = float;
  static constexpr int kWidth = 8;
  __m256 v;
  DI_INLINE Vector load(const float* p) { return {_mm256_loadu_ps(p)}; }
  DI_INLINE Vector all(float x) { return {_mm256_set1_ps(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.v)}; }   // in this order NaN stays
  DI_INLINE Vector largest(Vector a, Vector b) { return {_mm256_max_ps(a.v, b.v)}; }
  DI_INLINE Vector zero_below(Vector x, Vector limit, Vector a) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.v, limit.v, _CMP_LT_OQ), a.v)};
  }
  DI_INLINE Vector power(Vector t) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t.v), 23))}; }
  inline __attribute__((always_inline)) void store(float* p) const { _mm256_storeu_ps(p, v); }
  DI_OPERATOR(+, _mm256_add_ps)
  DI_OPERATOR(-, _mm256_sub_ps)
  DI_OPERATOR(*, _mm256_mul_ps)
};

template <> struct Vector<double> {
  using Element = double;
  using Number = double;
  static constexpr int kWidth = 4;
  __m256d v;
  DI_INLINE Vector load(const double* p) { return {_mm256_loadu_pd(p)}; }
  DI_INLINE Vector all(double x) { return {_mm256_set1_pd(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm256_max_pd(_mm256_setzero_pd(), a.v)}; }
  DI_INLINE Vector largest(Vector a, Vector b) { return {_mm256_max_pd(a.v, b.v)}; }
  DI_INLINE Vector zero_below(Vector x, Vector limit, Vector a) {
    return {_mm256_andnot_pd(_mm256_cmp_pd(x.v, limit.v, _CMP_LT_OQ), a.v)};
  }
  DI_INLINE Vector power(Vector t) { return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t.v), 52))}; }
  inline __attribute__((always_inline)) void store(double* p) const { _mm256_storeu_pd(p, v); }
  DI_OPERATOR(+, _mm256_add_pd)
  DI_OPERATOR(-, _mm256_sub_pd)
  DI_OPERATOR(*, _mm256_mul_pd)
};

#undef DI_INLINE
#undef DI_OPERATOR
