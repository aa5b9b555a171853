// Gradients of the convolution with one weight per path on edges; equations in atomml/kernels/reference_cg.py.
//
// With z_t[b] = sum_ak M_t[a,b,k] x[a] s[k] for each channel, dw_t = sum_b y[b] z_t[b], and dy[b] is the sum of
// w_t z_t[b] over channels and paths. For degrees up to 3 the sums over a and k are unrolled at compile time: real
// harmonics of orders m1, m2, m3 (negative: sine) couple only if |m2| = |m1| + |m3| or ||m1| - |m3||, and if the
// number of sines is even where l1 + l2 + l3 is, odd where it is odd.
#pragma once
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "coupling.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "terms.hpp"
#include "tiles.hpp"

namespace atomml {

// Component b that components a and k of degrees l1 and l3 couple to in degree l2: the first or the second; -1: none.
constexpr int partner(int l1, int l2, int l3, int a, int k, int which) {
  const int m1 = a - l1, m3 = k - l3, n1 = m1 < 0 ? -m1 : m1, n3 = m3 < 0 ? -m3 : m3;
  const int low = n1 > n3 ? n1 - n3 : n3 - n1, order = which == 0 ? n1 + n3 : low;
  const bool sine = (l1 + l2 + l3 + (m1 < 0) + (m3 < 0)) % 2 != 0;
  if (order > l2 || (which == 1 && low == n1 + n3) || (sine && order == 0)) return -1;
  return sine ? l2 - order : l2 + order;
}

// Numbers of the paths in the order of the kernels: values[(a · d3 + k) · 2 + which] of every path.
template <class T> struct AdjointPlan {
  std::vector<PathPlan> paths;  // `matrix` is where the values of a path start
  std::vector<T> values;

  explicit AdjointPlan(const AtommlCoupling& c) {
    for (int64_t t = 0; t < c.paths; ++t) {
      PathPlan p = plan_path(c, t, false);
      p.matrix = int64_t(values.size());
      values.resize(values.size() + 2 * p.d1 * p.d3, T(0));
      for (int64_t n = c.first[t]; n < c.first[t + 1]; ++n) {
        const int a = int(c.index[4 * n] - p.a0), b = int(c.index[4 * n + 1] - p.b0), k = int(c.index[4 * n + 2] - p.k0);
        const int which = partner(p.d1 / 2, p.d2 / 2, p.d3 / 2, a, k, 0) == b ? 0 : 1;
        values[p.matrix + (a * p.d3 + k) * 2 + which] += T(c.value[n]);
      }
      paths.push_back(p);
    }
  }
};

template <class Visit, int... I>
INLINE void for_constants(Visit visit, std::integer_sequence<int, I...>) {
  (visit(std::integral_constant<int, I>{}), ...);
}

template <class T> struct CGAdjoint {
  const Terms<T>& terms;
  const T* s;
  const AtommlEdges& edges;
  T *dy, *dw;
  int64_t dim_x, dim_y, dim_out, n_paths, channels;
  const AdjointPlan<T>& plan;
  bool streamed;  // dw past the cache

  bool leaving;  // the edges leave their rows: x is that of the row, s at the other end

  // One edge and one block of channels.
  struct Place {
    int64_t edge, neighbor, channel;
    const T* s;
    Vec<T>* total;  // sums of dy
    int lanes;
  };

  // z of one path for V vectors of channels.
  template <int L1, int L2, int L3, int V, bool Full>
  static INLINE void unrolled(Vec<T> (&z)[2 * L2 + 1][V], const T* values, const T* x, const T* s, int64_t channels, int n) {
    for_constants([&](auto a) __attribute__((always_inline)) {
      Vec<T> xa[V];
      UNROLL for (int v = 0; v < V; ++v) xa[v] = load_n<Full>(x + a * channels + v * kLanes<T>, n);
      for_constants([&](auto k) __attribute__((always_inline)) {
        constexpr int first = partner(L1, L2, L3, a, k, 0), second = partner(L1, L2, L3, a, k, 1);
        if constexpr (first >= 0 || second >= 0) {
          const T* value = values + (a * (2 * L3 + 1) + k) * 2;
          UNROLL for (int v = 0; v < V; ++v) {
            const Vec<T> product = xa[v] * load_n<Full>(s + k * channels + v * kLanes<T>, n);
            if constexpr (first >= 0) z[first][v] += broadcast(value[0]) * product;
            if constexpr (second >= 0) z[second][v] += broadcast(value[1]) * product;
          }
        }
      }, std::make_integer_sequence<int, 2 * L3 + 1>{});
    }, std::make_integer_sequence<int, 2 * L1 + 1>{});
  }

  // The same for any degrees, one vector at a time.
  template <bool Full>
  static void general(Vec<T>* z, const PathPlan& p, const T* values, const T* x, const T* s, int64_t channels, int n) {
    for (int a = 0; a < p.d1; ++a)
      for (int k = 0; k < p.d3; ++k) {
        const Vec<T> product = load_n<Full>(x + a * channels, n) * load_n<Full>(s + k * channels, n);
        for (int which = 0; which < 2; ++which) {
          const int b = partner(p.d1 / 2, p.d2 / 2, p.d3 / 2, a, k, which);
          if (b >= 0) z[b] += broadcast(values[(a * p.d3 + k) * 2 + which]) * product;
        }
      }
  }

  // One path at one place; fill(z, x, s) adds to z[D2][V].
  template <int D2, int V, bool Full, class Fill>
  INLINE void path(const PathPlan& p, const Place& at, int64_t shift, int d2, Fill fill) const {
    const int64_t c = at.channel + shift, weights = (at.edge * n_paths + p.path) * channels + c;
    Vec<T> dweight[V] = {};
    for (const Term<T>& term : terms) {
      Vec<T> z[D2][V] = {};
      fill(z, term.x + (at.neighbor * dim_x + p.a0) * channels + c, at.s + p.k0 * channels + shift);
      if (dw && term.y) {
        UNROLL for (int b = 0; b < d2; ++b) {
          const Vec<T> yb = broadcast(term.y[at.edge * dim_y + p.b0 + b]);
          UNROLL for (int v = 0; v < V; ++v) dweight[v] += yb * z[b][v];
        }
      }
      if (dy && term.w) {
        Vec<T> weight[V];
        UNROLL for (int v = 0; v < V; ++v) weight[v] = load_n<Full>(term.w + weights + v * kLanes<T>, at.lanes);
        UNROLL for (int b = 0; b < d2; ++b) {
          Vec<T> sum_b = at.total[p.b0 + b];
          UNROLL for (int v = 0; v < V; ++v) sum_b += weight[v] * z[b][v];
          at.total[p.b0 + b] = sum_b;
        }
      }
    }
    if (dw && Full && streamed) {
      UNROLL for (int v = 0; v < V; ++v) stream(dw + weights + v * kLanes<T>, dweight[v]);
    } else if (dw) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(dw + weights + v * kLanes<T>, dweight[v], at.lanes);
    }
  }

  template <int Code, int V, bool Full>
  static void unrolled_path(const CGAdjoint& kernel, const PathPlan& p, const Place& at) {
    constexpr int l1 = Code / 16, l2 = Code / 4 % 4, l3 = Code % 4, d2 = 2 * l2 + 1;
    constexpr int fit = d2 * V <= (kRegisters == 32 ? 20 : 7) ? V : d2 * 2 <= (kRegisters == 32 ? 20 : 7) && V >= 2 ? 2 : 1;
    for (int64_t v = 0; v < V; v += fit)
      kernel.template path<d2, fit, Full>(p, at, v * kLanes<T>, d2, [&](auto& z, const T* x, const T* s) __attribute__((always_inline)) {
        unrolled<l1, l2, l3, fit, Full>(z, kernel.plan.values.data() + p.matrix, x, s, kernel.channels, at.lanes);
      });
  }

  template <int V, bool Full>
  static void general_path(const CGAdjoint& kernel, const PathPlan& p, const Place& at) {
    for (int64_t v = 0; v < V; ++v)
      kernel.template path<9, 1, Full>(p, at, v * kLanes<T>, p.d2, [&](auto& z, const T* x, const T* s) {
        general<Full>(&z[0][0], p, kernel.plan.values.data() + p.matrix, x, s, kernel.channels, at.lanes);
      });
  }

  using Visit = void (*)(const CGAdjoint&, const PathPlan&, const Place&);

  template <int V, bool Full, int Code> static constexpr Visit visit_of() {
    constexpr int l1 = Code / 16, l2 = Code / 4 % 4, l3 = Code % 4;
    if constexpr (l3 > l1 + l2 || l1 > l2 + l3 || l2 > l1 + l3) return nullptr;
    else return unrolled_path<Code, V, Full>;
  }
  template <int V, bool Full, int... Code>
  static constexpr std::array<Visit, sizeof...(Code)> visits(std::integer_sequence<int, Code...>) {
    return {visit_of<V, Full, Code>()...};
  }

  template <int V, bool Full> void all_paths(const Place& at) const {
    static constexpr auto unrolled_paths = visits<V, Full>(std::make_integer_sequence<int, 64>{});
    for (const PathPlan& p : plan.paths) {
      const int l1 = p.d1 / 2, l2 = p.d2 / 2, l3 = p.d3 / 2;
      if (l1 < 4 && l2 < 4 && l3 < 4) unrolled_paths[16 * l1 + 4 * l2 + l3](*this, p, at);
      else general_path<V, Full>(*this, p, at);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    Vec<T> total[25];  // components of the harmonics up to degree 4
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        std::fill_n(total, dim_y, Vec<T>{});
        const int64_t center = leaving ? edges.other[e] : row, neighbor = leaving ? row : edges.other[e];
        const T* si = s + center * dim_out * channels;
        constexpr int most = kRegisters == 32 ? 4 : 2;
        visit_channels<T, most>(channels, [&](auto vectors, auto full, int64_t c, int n) {
          all_paths<vectors, full>({e, neighbor, c, si + c, total, n});
        });
        if (dy)
          for (int64_t b = 0; b < dim_y; ++b) dy[e * dim_y + b] = sum<T>(total[b]);
      }
  }
};

}  // namespace atomml
