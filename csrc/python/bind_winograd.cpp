#include <algorithm>
#include <memory>
#include <optional>

#include "instructions.h"
#include "ops/winograd/winograd.h"
#include "registry.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

std::pair<int, int> layout(DType dtype, const std::string& instructions) {
  return dispatch_float_or_double("dtype", dtype, [&](auto element) {
    const WinogradLayout layout = winograd_layout<decltype(element)>(instructions_of(instructions));
    return std::pair(layout.width, layout.panel);
  });
}

// What does not change from call to call. Made by Python after its own checks: of the weight, and that the numbers go together.
struct Convolution {
  TensorRef weight;   // of which the address and the type are read
  Instructions instructions;
  int64_t inputs, outputs;   // with padding
  int r, tile, stride, padding;
  bool doubled, unpadded;

  WinogradParams params(int64_t n, int64_t height, int64_t width) const {
    WinogradParams p{};
    p.n = n, p.height = height, p.width = width, p.inputs = inputs, p.outputs = outputs, p.r = r, p.m = tile, p.stride = stride,
    p.padding = padding, p.doubled = doubled, p.unpadded = unpadded;
    return p;
  }
  int64_t workspace(int64_t n, int64_t height, int64_t width) const {
    return dispatch_float_or_double("dtype", weight.dtype, [&](auto element) {
      return winograd_workspace<decltype(element)>(params(n, height, width), instructions);
    });
  }
};

// A call whose tensors have been checked, to be made again and again.
class Bound {
 public:
  Bound(const Convolution& convolution, const TensorRef& x, const TensorRef& out, const TensorRef& workspace,
        const std::optional<TensorRef>& scale, const std::optional<TensorRef>& shift, const std::optional<TensorRef>& bias,
        const std::optional<TensorRef>& shortcut, const std::optional<TensorRef>& residual, bool relu)
      : instructions_(convolution.instructions), dtype_(convolution.weight.dtype) {
    check_rank("x", x, 4);
    const int64_t least = std::max(1, convolution.r - 2 * convolution.padding);
    if (x.size(1) < least || x.size(2) < least) fail("x", "have a height and width of at least " + std::to_string(least), text(x.shape));
    check_shape("x", x, {x.size(0), x.size(1), x.size(2), convolution.inputs});
    const int64_t n = x.size(0), height = x.size(1), width = x.size(2), outputs = convolution.outputs;
    const bool doubled = convolution.doubled;
    params_ = convolution.params(n, height, width);
    params_.relu = relu;
    const int64_t out_height = doubled ? 2 * height : winograd_out_size(params_, height);
    const int64_t out_width = doubled ? 2 * width : winograd_out_size(params_, width);
    check("x", x), check_contiguous("x", x);
    check_shape("out", out, {n, out_height, out_width, outputs});
    check("out", out), check_contiguous("out", out);
    check_apart("out", out, "x", x);
    check_apart("out", out, "the weight", convolution.weight);

    threads_ = check_workspace(workspace, convolution.workspace(n, height, width));
    check_apart("workspace", workspace, "x", x);
    check_apart("workspace", workspace, "out", out);
    check_apart("workspace", workspace, "the weight", convolution.weight);

    if (scale.has_value() != shift.has_value())
      fail(scale ? "shift" : "scale", scale ? "be given with scale" : "be given with shift", "None");
    if (scale && convolution.unpadded) fail("scale", "be None for unpadded inputs", text(scale->shape));
    if (scale) {
      params_.scale_stride = rows("scale", *scale, out, workspace), params_.shift_stride = rows("shift", *shift, out, workspace);
      scale_ = scale->address, shift_ = shift->address;
    }
    if (bias) bias_ = addend("bias", *bias, {outputs}, out, workspace);
    if (shortcut) {
      if (out_height % 2 || out_width % 2) fail("shortcut", "be None for a map of odd height or width", text(shortcut->shape));
      shortcut_ = addend("shortcut", *shortcut, {n, out_height / 2, out_width / 2, outputs}, out, workspace);
    }
    if (residual) residual_ = addend("residual", *residual, out.shape, out, workspace);
    x_ = x.address, out_ = out.address, weight_ = convolution.weight.address, workspace_ = workspace.address;
  }

  void run(int threads) const {
    const int used = int(threads < threads_ ? threads : threads_);
    if (used < 1) fail("threads", "be at least 1", std::to_string(threads));
    py::gil_scoped_release without_gil;
    dispatch_float_or_double("x", dtype_, [&](auto element) {
      using T = decltype(element);
      const auto at = [](uintptr_t address) { return reinterpret_cast<T*>(address); };
      winograd_cpu<T>({at(x_), at(scale_), at(shift_), at(weight_), at(bias_), at(shortcut_), at(residual_), at(out_)}, params_,
                      instructions_, reinterpret_cast<void*>(workspace_), used);
    });
  }

 private:
  void check(const std::string& name, const TensorRef& t) const {
    check_dtype(name, t, dtype_);
    check_on_cpu(name, t);
    check_aligned(name, t, dtype_ == DType::float32 ? 4 : 8);
  }
  // [n, inputs], rows of contiguous values any distance apart, 0 as well; that distance.
  int64_t rows(const std::string& name, const TensorRef& t, const TensorRef& out, const TensorRef& workspace) const {
    check_shape(name, t, {params_.n, params_.inputs});
    check(name, t);
    if (t.strides[1] != 1 || t.strides[0] < 0) fail(name, "have contiguous rows", "strides " + text(t.strides));
    TensorRef span = t;   // what is read, from the first row to the last
    span.shape = {params_.n ? (params_.n - 1) * t.strides[0] + params_.inputs : 0};
    check_apart("out", out, name, span);
    check_apart("workspace", workspace, name, span);
    return t.strides[0];
  }
  uintptr_t addend(const std::string& name, const TensorRef& t, const std::vector<int64_t>& shape, const TensorRef& out,
                   const TensorRef& workspace) const {
    check_shape(name, t, shape);
    check(name, t), check_contiguous(name, t);
    if (name != "residual" || t.address != out.address) check_apart("out", out, name, t);
    check_apart("workspace", workspace, name, t);
    return t.address;
  }

  WinogradParams params_{};
  Instructions instructions_;
  DType dtype_;
  int64_t threads_ = 0;   // for which there is workspace
  uintptr_t x_ = 0, scale_ = 0, shift_ = 0, weight_ = 0, bias_ = 0, shortcut_ = 0, residual_ = 0, out_ = 0, workspace_ = 0;
};

const Register registered{[](py::module_& module) {
  module.def("winograd_layout", &layout);
  py::class_<Convolution>(module, "WinogradConvolution", py::module_local())
      .def(py::init([](const TensorRef& weight, const std::string& instructions, int64_t inputs, int64_t outputs, int r, int tile,
                       int stride, int padding, bool doubled, bool unpadded) {
        return Convolution{weight, instructions_of(instructions), inputs, outputs, r, tile, stride, padding, doubled, unpadded};
      }))
      .def("workspace", &Convolution::workspace);
  py::class_<Bound>(module, "WinogradBound", py::module_local())
      .def(py::init<const Convolution&, const TensorRef&, const TensorRef&, const TensorRef&, const std::optional<TensorRef>&,
                    const std::optional<TensorRef>&, const std::optional<TensorRef>&, const std::optional<TensorRef>&,
                    const std::optional<TensorRef>&, bool>())
      .def("run", &Bound::run);
}};

}  // namespace
}  // namespace di
