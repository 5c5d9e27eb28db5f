#include <cstdint>
#include <cstring>
#include <type_traits>

#include "winograd_kernels.h"
#include "winograd_math.h"

namespace di::winograd {
namespace generic {

#include "core/vector_generic.h"
#include "core/bfloat16_generic.h"
#include "winograd_block.h"

template <> struct FactorsOf<Vector<BFloat16>> { using Type = Pairs; };

}  // namespace generic

extern const Kernels<float> generic_float;
extern const Kernels<double> generic_double;
extern const Kernels<BFloat16> generic_bfloat16;
const Kernels<float> generic_float = generic::kernels<generic::Vector<float>, 5, 2>();
const Kernels<double> generic_double = generic::kernels<generic::Vector<double>, 5, 2>();
const Kernels<BFloat16> generic_bfloat16 = generic::kernels<generic::Vector<BFloat16>, 3, 2>();

}  // namespace di::winograd
