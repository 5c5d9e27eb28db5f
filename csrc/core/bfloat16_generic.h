// What Vector<BFloat16> of vector_generic.h lacks; as bfloat16_avx512_bf16.h, for the tests of processors without AVX512_BF16: exact products,
// the same sums, but subnormal numbers are kept.

template <class T> inline __attribute__((always_inline)) Vector<T> Vector<T>::load(const BFloat16* p) {
  Vector a;
  for (int i = 0; i < kWidth; ++i) a.v[i] = di::load(p[i]);
  return a;
}

template <class T> inline __attribute__((always_inline)) void Vector<T>::store(BFloat16* p) const {
  for (int i = 0; i < kWidth; ++i) p[i] = di::store<BFloat16>(v[i]);
}

struct Pairs {
  static constexpr int kNumbers = 2;
  using Given = BFloat16;
  using Floats = Vector<BFloat16>::Bytes16;
  Floats first, second;
  static inline __attribute__((always_inline)) Pairs load(const BFloat16* p) {
    Pairs pairs;
    for (int i = 0; i < Vector<BFloat16>::kWidth; ++i) pairs.first[i] = di::load(p[2 * i]), pairs.second[i] = di::load(p[2 * i + 1]);
    return pairs;
  }
  static inline __attribute__((always_inline)) Pairs all(const BFloat16* p) {
    return {Floats{} + di::load(p[0]), Floats{} + di::load(p[1])};
  }
  static inline __attribute__((always_inline)) Vector<BFloat16> plus_products(Pairs a, Pairs b, Vector<BFloat16> c) {
    return {(c.v + a.second * b.second) + a.first * b.first};
  }
};
