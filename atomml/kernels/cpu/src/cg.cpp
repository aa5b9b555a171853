#include "cg.hpp"

namespace atomml {
namespace {

template <class T>
int cg_conv(const T* x, const T* y, const T* w, const AtommlEdges* edges, const AtommlCoupling* coupling, T* out,
            int64_t c, int swap, int threads) {
  if (!valid(*edges)) return kBadIndex;
  return guarded([&] {
    const MatrixPlan<T> plan(*coupling, swap != 0);
    const int64_t dim_x = swap ? coupling->dim_out : coupling->dim_x, dim_out = swap ? coupling->dim_x : coupling->dim_out;
    const CGConv<T> kernel{x, y, w, *edges, out, dim_x, coupling->dim_y, dim_out, coupling->paths, c, plan};
    parallel_rows(edges->pointer, edges->rows, useful_threads(threads, double(edges->edges) * plan.numbers * c),
                  [&](int64_t begin, int64_t end) { kernel.rows(begin, end); });
  });
}

template <class T>
int cg_yw(const T* x, const T* y, const T* w, const T* s, const AtommlEdges* edges, const AtommlCoupling* coupling,
          T* dy, T* dw, int64_t c, int threads) {
  if (!valid(*edges)) return kBadIndex;
  return guarded([&] {
    const TermPlan<T> plan(*coupling);
    will_write(dw, edges->edges * coupling->paths * c);
    auto run = [&](auto want_y, auto want_w) {
      const CGAdjoint<T, want_y, want_w> kernel{x,  y,  w,  s, *edges, dy, dw, coupling->dim_x, coupling->dim_y,
                                                coupling->dim_out, coupling->paths, c, plan};
      parallel_rows(edges->pointer, edges->rows, useful_threads(threads, double(edges->edges) * plan.terms.size() * c),
                    [&](int64_t begin, int64_t end) { kernel.rows(begin, end); });
    };
    if (dy && dw) run(std::true_type{}, std::true_type{});
    else if (dy) run(std::true_type{}, std::false_type{});
    else if (dw) run(std::false_type{}, std::true_type{});
  });
}

}  // namespace
}  // namespace atomml

#define ATOMML_DEFINE(T, S)                                                                                      \
  int atomml_cg_conv_##S(const T* x, const T* y, const T* w, const AtommlEdges* edges,                           \
                         const AtommlCoupling* coupling, T* out, int64_t c, int swap, int threads) {             \
    return atomml::cg_conv(x, y, w, edges, coupling, out, c, swap, threads);                                     \
  }                                                                                                              \
  int atomml_cg_yw_##S(const T* x, const T* y, const T* w, const T* s, const AtommlEdges* edges,                 \
                       const AtommlCoupling* coupling, T* dy, T* dw, int64_t c, int threads) {                   \
    return atomml::cg_yw(x, y, w, s, edges, coupling, dy, dw, c, threads);                                       \
  }
ATOMML_DEFINE(float, f32)
ATOMML_DEFINE(double, f64)
