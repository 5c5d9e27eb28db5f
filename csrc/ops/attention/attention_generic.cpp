#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attention_kernels.h"
#include "core/scalar.h"

namespace di::attention {
namespace generic {

#include "core/vector_generic.h"
#include "attention_block.h"

}  // namespace generic

extern const Kernels<float> generic_float;
extern const Kernels<double> generic_double;
const Kernels<float> generic_float = generic::kernels<generic::Vector<float>, 5, 2, 5, 2>();
const Kernels<double> generic_double = generic::kernels<generic::Vector<double>, 5, 2, 5, 2>();

}  // namespace di::attention
