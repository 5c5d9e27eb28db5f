// AVX-512 (F, VL, DQ, BW): 64 bytes. As vector_avx2.h; needs scalar.h. Vector<BFloat16> is completed by bfloat16_avx512.h or bfloat16_avx512_bf16.h.

#define DI_INLINE static inline __attribute__((always_inline))
#define DI_OPERATOR(op, intrinsic) \
  friend inline __attribute__((always_inline)) Vector operator op(Vector a, Vector b) { return {intrinsic(a.v, b.v)}; }

// Of floats, which lie in memory as T: float or BFloat16.
template <class T> struct Vector {
  using Element = T;
  using Number = float;
  static constexpr int kWidth = 16;
  __m512 v;
  DI_INLINE Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
  DI_INLINE Vector load(const BFloat16* p);
  DI_INLINE Vector all(float x) { return {_mm512_set1_ps(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm512_max_ps(_mm512_setzero_ps(), a.v)}; }   // in this order NaN stays
  DI_INLINE Vector largest(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
  DI_INLINE Vector zero_below(Vector x, Vector limit, Vector a) {
    return {_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), _mm512_setzero_ps())};
  }
  DI_INLINE Vector power(Vector t) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23))}; }
  inline __attribute__((always_inline)) void store(float* p) const { _mm512_storeu_ps(p, v); }
  inline __attribute__((always_inline)) void store(BFloat16* p) const;
  DI_OPERATOR(+, _mm512_add_ps)
  DI_OPERATOR(-, _mm512_sub_ps)
  DI_OPERATOR(*, _mm512_mul_ps)
};

template <> struct Vector<double> {
  using Element = double;
  using Number = double;
  static constexpr int kWidth = 8;
  __m512d v;
  DI_INLINE Vector load(const double* p) { return {_mm512_loadu_pd(p)}; }
  DI_INLINE Vector all(double x) { return {_mm512_set1_pd(x)}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
  DI_INLINE Vector relu(Vector a) { return {_mm512_max_pd(_mm512_setzero_pd(), a.v)}; }
  DI_INLINE Vector largest(Vector a, Vector b) { return {_mm512_max_pd(a.v, b.v)}; }
  DI_INLINE Vector zero_below(Vector x, Vector limit, Vector a) {
    return {_mm512_mask_mov_pd(a.v, _mm512_cmp_pd_mask(x.v, limit.v, _CMP_LT_OQ), _mm512_setzero_pd())};
  }
  DI_INLINE Vector power(Vector t) { return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(t.v), 52))}; }
  inline __attribute__((always_inline)) void store(double* p) const { _mm512_storeu_pd(p, v); }
  DI_OPERATOR(+, _mm512_add_pd)
  DI_OPERATOR(-, _mm512_sub_pd)
  DI_OPERATOR(*, _mm512_mul_pd)
};

#undef DI_INLINE
#undef DI_OPERATOR
