// For any processor: the compiler's own vectors of 16 bytes (SSE2 on x86-64). There is no fused multiply-add: product and sum round.
#include <cstdint>
#include <cstring>

#include "winograd_kernels.h"
#include "winograd_math.h"

namespace di::winograd {
namespace generic {

#define DI_INLINE static inline __attribute__((always_inline))

template <class T> struct Vector {
  using Element = T;
  static constexpr int kWidth = 16 / sizeof(T);
  typedef T Bytes16 __attribute__((vector_size(16)));
  Bytes16 v;
  DI_INLINE Vector load(const T* p) {
    Vector a;
    memcpy(&a.v, p, 16);
    return a;
  }
  DI_INLINE Vector all(T x) { return {Bytes16{} + x}; }
  DI_INLINE Vector plus_product(Vector a, Vector b, Vector c) { return {c.v + a.v * b.v}; }
  DI_INLINE Vector minus_product(Vector a, Vector b, Vector c) { return {c.v - a.v * b.v}; }
  DI_INLINE Vector relu(Vector a) { return {a.v < 0 ? Bytes16{} : a.v}; }
  inline __attribute__((always_inline)) void store(T* p) const { memcpy(p, &v, 16); }
  friend inline __attribute__((always_inline)) Vector operator+(Vector a, Vector b) { return {a.v + b.v}; }
  friend inline __attribute__((always_inline)) Vector operator-(Vector a, Vector b) { return {a.v - b.v}; }
  friend inline __attribute__((always_inline)) Vector operator*(Vector a, Vector b) { return {a.v * b.v}; }
};

#include "winograd_block.h"

}  // namespace generic

extern const Kernels<float> generic_float;
extern const Kernels<double> generic_double;
const Kernels<float> generic_float = generic::kernels<generic::Vector<float>, 5, 2>();
const Kernels<double> generic_double = generic::kernels<generic::Vector<double>, 5, 2>();

}  // namespace di::winograd
