#include "cg.hpp"
#include "cg_adjoint.hpp"
#include "cg_first.hpp"

namespace atomml {
namespace {

template <class T>
void first_degrees(const Gradients<T>& g, const FirstDegrees<T>& c, int64_t channels, int threads) {
  const double work = 14.0 * channels;
  if (g.ds)
    parallel_rows(g.by_center->pointer, g.by_center->rows, useful_threads(threads, g.by_center->edges * work * g.of_s.n),
                  [&](int64_t begin, int64_t end) { FirstConv<T>{g.of_s, *g.by_center, g.ds, channels, c.c}.rows(begin, end); });
  if (!(g.dx || g.dy || g.dw)) return;
  const FirstAdjoint<T> adjoint{g, channels, c.c, g.dw && streams(g.dw, g.by_neighbor->edges * 4 * channels, channels)};
  parallel_rows(g.by_neighbor->pointer, g.by_neighbor->rows, useful_threads(threads, g.by_neighbor->edges * work * (g.of_x.n + 2 * g.of_yw.n)),
                [&](int64_t begin, int64_t end) { adjoint.rows(begin, end); });
}

template <class T>
void any_degrees(const Gradients<T>& g, const AtommlCoupling& k, int64_t channels, int threads) {
  const MatrixPlan<T> plan(k, false), plan_x(k, true);
  const AdjointPlan<T> plan_yw(k);
  const bool streamed = g.dw && streams(g.dw, g.by_center->edges * k.paths * channels, channels);
  const auto conv = [&](int64_t begin, int64_t end) {
    if (g.ds) CGConv<T>{g.of_s, *g.by_center, g.ds, k.dim_x, k.dim_y, k.dim_out, k.paths, channels, plan}.rows(begin, end);
  };
  const auto conv_x = [&](int64_t begin, int64_t end) {
    CGConv<T>{g.of_x, *g.by_neighbor, g.dx, k.dim_out, k.dim_y, k.dim_x, k.paths, channels, plan_x}.rows(begin, end);
  };
  const auto adjoint = [&](const AtommlEdges& edges, bool leaving, int64_t begin, int64_t end) {
    CGAdjoint<T>{g.of_yw, g.s, edges, g.dy, g.dw, k.dim_x, k.dim_y, k.dim_out, k.paths, channels, plan_yw, streamed, leaving}
        .rows(begin, end);
  };
  compute(g, double(plan.numbers) * channels, threads, conv, conv_x, adjoint);
}

template <class T>
int gradients(const Gradients<T>& g, const AtommlCoupling& coupling, int64_t channels, int threads) {
  if (!g.valid()) return kBadIndex;
  return guarded([&] {
    if (g.dw) will_write(g.dw, g.by_center->edges * coupling.paths * channels);
    const FirstDegrees<T> first(coupling);
    const bool one_pass = g.dx || !(g.dy || g.dw);  // over the edges that leave an atom, which come with dx only
    if (first.fits && one_pass) first_degrees(g, first, channels, threads);
    else any_degrees(g, coupling, channels, threads);
  });
}

}  // namespace
}  // namespace atomml

#define ATOMML_DEFINE(T, S)                                                                                        \
  int atomml_cg_conv_##S(const T* x, const T* y, const T* w, const AtommlEdges* by_center, T* out,                 \
                         const AtommlCoupling* coupling, int64_t c, int threads) {                                 \
    return atomml::gradients(atomml::Gradients<T>::conv(x, y, w, by_center, out), *coupling, c, threads);          \
  }                                                                                                                \
  int atomml_cg_backward_##S(const T* s, const T* x, const T* y, const T* w, const AtommlEdges* by_center,         \
                             const AtommlEdges* by_neighbor, T* dx, T* dy, T* dw, const AtommlCoupling* coupling,  \
                             int64_t c, int threads) {                                                             \
    return atomml::gradients(atomml::Gradients<T>::first(s, x, y, w, by_center, by_neighbor, dx, dy, dw),          \
                             *coupling, c, threads);                                                               \
  }                                                                                                                \
  int atomml_cg_backward2_##S(const T* s, const T* x, const T* y, const T* w, const T* alpha, const T* beta,       \
                              const T* gamma, const AtommlEdges* by_center, const AtommlEdges* by_neighbor,        \
                              T* ds, T* dx, T* dy, T* dw, const AtommlCoupling* coupling, int64_t c,               \
                              int threads) {                                                                       \
    return atomml::gradients(                                                                                      \
        atomml::Gradients<T>::second(s, x, y, w, alpha, beta, gamma, by_center, by_neighbor, ds, dx, dy, dw),      \
        *coupling, c, threads);                                                                                    \
  }
ATOMML_DEFINE(float, f32)
ATOMML_DEFINE(double, f64)
