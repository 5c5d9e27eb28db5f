// For any processor: the compiler's own vectors of 16 bytes (SSE2 on x86-64). There is no fused multiply-add: product and sum round.
// Needs <cstdint>, <cstring>, <type_traits> and scalar.h. As vector_avx2.h; Vector<BFloat16> is completed by bfloat16_generic.h.

#define DI_INLINE static inline __attribute__((always_inline))

template <class T> struct Vector {
  using Element = T;
  using Number = Wide<T>;
  static constexpr int kWidth = 16 / sizeof(Number);
  using Integer = typename std::conditional<sizeof(Number) == 4, int32_t, int64_t>::type;
  typedef Number Bytes16 __attribute__((vector_size(16)));
  typedef Integer Integers __attribute__((vector_size(16)));
  Bytes16 v;
  DI_INLINE Vector load(const Number* p) {
    Vector a;
    memcpy(&a.v, p, 16);
    return a;
  }
  DI_INLINE Vector load(const BFloat16* p);
  DI_INLINE Vector all(Number x) { return {Bytes16{} + x}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {c.v + a.v * b.v}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {c.v - a.v * b.v}; }
  DI_INLINE Vector largest(Vector a, Vector b) { return {a.v > b.v ? a.v : b.v}; }
  DI_INLINE Vector zero_below(Vector x, Vector limit, Vector a) { return {x.v < limit.v ? Bytes16{} : a.v}; }
  DI_INLINE Vector power(Vector t) { return {(Bytes16)((Integers)t.v << (sizeof(Number) == 4 ? 23 : 52))}; }
  DI_INLINE Vector relu(Vector a) { return {a.v < 0 ? Bytes16{} : a.v}; }
  inline __attribute__((always_inline)) void store(Number* p) const { memcpy(p, &v, 16); }
  inline __attribute__((always_inline)) void store(BFloat16* p) const;
  friend inline __attribute__((always_inline)) Vector operator+(Vector a, Vector b) { return {a.v + b.v}; }
  friend inline __attribute__((always_inline)) Vector operator-(Vector a, Vector b) { return {a.v - b.v}; }
  friend inline __attribute__((always_inline)) Vector operator*(Vector a, Vector b) { return {a.v * b.v}; }
};

#undef DI_INLINE
