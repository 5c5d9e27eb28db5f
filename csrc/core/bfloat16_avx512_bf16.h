// What Vector<BFloat16> of vector_avx512.h lacks, by AVX512_BF16: numbers are widened as they are loaded and rounded to nearest even as they
// are stored (subnormal ones to zero). Included behind it, in the same namespace; needs <cstring>.

template <class T> inline __attribute__((always_inline)) Vector<T> Vector<T>::load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

template <class T> inline __attribute__((always_inline)) void Vector<T>::store(BFloat16* p) const {
  const __m256bh bits = _mm512_cvtneps_pbh(v);
  memcpy(p, &bits, sizeof bits);
}

// Two numbers for each float of a vector, and the sum of their products: the second product is added first, either sum rounded.
struct Pairs {
  static constexpr int kNumbers = 2;
  using Given = BFloat16;
  __m512bh v;
  static inline __attribute__((always_inline)) Pairs load(const BFloat16* p) {
    Pairs pairs;
    memcpy(&pairs.v, p, sizeof pairs.v);
    return pairs;
  }
  static inline __attribute__((always_inline)) Pairs all(const BFloat16* p) {
    int pair;
    memcpy(&pair, p, sizeof pair);
    return {(__m512bh)_mm512_set1_epi32(pair)};
  }
  static inline __attribute__((always_inline)) Vector<BFloat16> plus_products(Pairs a, Pairs b, Vector<BFloat16> c) {
    return {_mm512_dpbf16_ps(c.v, a.v, b.v)};
  }
};
