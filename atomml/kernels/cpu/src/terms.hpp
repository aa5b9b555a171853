// What every gradient of F(s, x, y, w) = sum_i s_i S(x, y, w)_i is made of, for both families of operators.
//
// The derivatives of its gradients are sums of up to three terms in which a cotangent stands in the place of an
// operand. Kernels take the sum as a whole, so that each result is written once.
#pragma once
#include <algorithm>

#include "api.h"
#include "parallel.hpp"
#include "simd.hpp"

namespace atomml {

// Whether rows of `channels` numbers of a result of n numbers are best stored past the cache, and can be.
template <class T> bool streams(const T* result, int64_t n, int64_t channels) {
  constexpr int64_t large = 4 << 20;
  return n * int64_t(sizeof(T)) > large && channels % kLanes<T> == 0 && reinterpret_cast<uintptr_t>(result) % kBytes == 0;
}

template <class T> struct Term {
  const T *x, *y, *w;
};

template <class T> struct Terms {
  Term<T> term[3];
  int n = 0;

  void add(const T* x, const T* y, const T* w) { term[n++] = {x, y, w}; }
  const Term<T>* begin() const { return term; }
  const Term<T>* end() const { return term + n; }
};

// Sums to compute and where they go; a null result is not wanted.
template <class T> struct Gradients {
  const T* s;
  Terms<T> of_s;   // S(x, y, w)
  Terms<T> of_x;   // Sx(s, y, w), with s as x
  Terms<T> of_yw;  // Sy(x, s, w) unless w is null, Sw(x, y, s) unless y is null
  T *ds, *dx, *dy, *dw;
  const AtommlEdges *by_center, *by_neighbor;

  static Gradients conv(const T* x, const T* y, const T* w, const AtommlEdges* by_center, T* out) {
    Gradients g{nullptr, {}, {}, {}, out, nullptr, nullptr, nullptr, by_center, nullptr};
    g.of_s.add(x, y, w);
    return g;
  }

  static Gradients first(const T* s, const T* x, const T* y, const T* w, const AtommlEdges* by_center,
                         const AtommlEdges* by_neighbor, T* dx, T* dy, T* dw) {
    Gradients g{s, {}, {}, {}, nullptr, dx, dy, dw, by_center, by_neighbor};
    g.of_x.add(s, y, w);
    g.of_yw.add(x, y, w);
    return g;
  }

  // of F(s, a, y, w) + F(s, x, b, w) + F(s, x, y, c)
  static Gradients second(const T* s, const T* x, const T* y, const T* w, const T* a, const T* b, const T* c,
                          const AtommlEdges* by_center, const AtommlEdges* by_neighbor, T* ds, T* dx, T* dy, T* dw) {
    Gradients g{s, {}, {}, {}, ds, dx, dy, dw, by_center, by_neighbor};
    if (a) g.of_s.add(a, y, w);
    if (b) g.of_s.add(x, b, w);
    if (c) g.of_s.add(x, y, c);
    if (b) g.of_x.add(s, b, w);
    if (c) g.of_x.add(s, y, c);
    if (a) g.of_yw.add(a, y, w);
    if (b || c) g.of_yw.add(x, b, c);
    return g;
  }

  bool valid() const {
    return (!by_center || atomml::valid(*by_center)) && (!by_neighbor || atomml::valid(*by_neighbor));
  }
};

// Runs the kernels on all rows; conv(begin, end) is that of S, conv_x that of Sx, and adjoint(edges, leaving, begin, end)
// that of Sy and Sw, for edges that arrive at their rows or leave them. It follows another kernel a few rows behind, so
// that it finds in the cache what that has read.
template <class T, class Conv, class ConvX, class Adjoint>
void compute(const Gradients<T>& g, double multiply_adds, int threads, const Conv& conv, const ConvX& conv_x, const Adjoint& adjoint) {
  const bool on_edges = g.dy || g.dw;  // also without a term: then they are zero
  const double edge_terms = on_edges ? 2.0 * g.of_yw.n : 0;
  auto both = [&](const AtommlEdges& edges, double terms, bool leaving, bool also, auto first) {
    parallel_rows(edges.pointer, edges.rows, useful_threads(threads, edges.edges * multiply_adds * terms),
                  [&](int64_t begin, int64_t end) {
                    constexpr int64_t few = 4;
                    for (int64_t row = begin; row < end; row += few) {
                      first(row, std::min(row + few, end));
                      if (also) adjoint(edges, leaving, row, std::min(row + few, end));
                    }
                    stream_end();
                  });
  };
  const bool leaving = g.dx;  // then their edges are read anyway
  if (g.dx) both(*g.by_neighbor, g.of_x.n + edge_terms, true, on_edges, conv_x);
  if (g.ds || (on_edges && !leaving))
    both(*g.by_center, (g.ds ? g.of_s.n : 0) + (leaving ? 0 : edge_terms), false, on_edges && !leaving, conv);
}

}  // namespace atomml
