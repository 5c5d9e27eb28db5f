// What Vector<BFloat16> of vector_avx512.h lacks, by AVX-512 alone: bfloat16 is how numbers lie in memory, half as wide, and they are
// multiplied as floats. Rounded to nearest even as they are stored. Included behind it, in the same namespace; needs <cstring>.

template <class T> inline __attribute__((always_inline)) Vector<T> Vector<T>::load(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

template <class T> inline __attribute__((always_inline)) void Vector<T>::store(BFloat16* p) const {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));   // a NaN must not round to infinity
  const __m512i chosen = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}

// Two numbers for each float of a vector, and the sum of their products: the second is added first, fused, either sum rounded. The left
// ones wait as floats, not rounded to bfloat16 again: it is the right ones, the weights, that come from memory.
struct WidenedPairs {
  static constexpr int kNumbers = 2;
  using Given = float;
  __m512 first, second;
  static inline __attribute__((always_inline)) WidenedPairs load(const BFloat16* p) {
    const __m512i pairs = _mm512_loadu_si512(p);
    const __m512i high = _mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), _mm512_castsi512_ps(high)};
  }
  static inline __attribute__((always_inline)) WidenedPairs all(const float* p) { return {_mm512_set1_ps(p[0]), _mm512_set1_ps(p[1])}; }
  static inline __attribute__((always_inline)) Vector<BFloat16> plus_products(WidenedPairs a, WidenedPairs b, Vector<BFloat16> c) {
    return {_mm512_fmadd_ps(a.first, b.first, _mm512_fmadd_ps(a.second, b.second, c.v))};
  }
};
