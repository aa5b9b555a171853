// Degrees 0 and 1 with the four paths 000, 011, 101 and 110, for which memory is the limit and not arithmetic:
//
//   out_0 = c_0 w_0 y_0 x_0 + c_3 w_3 (y · x),    out = c_1 w_1 x_0 y + c_2 w_2 y_0 x
//
// with the vectors x, y, out of degree 1.
#pragma once
#include <algorithm>
#include <iterator>

#include "cg.hpp"
#include "terms.hpp"

namespace atomml {

template <class T> struct FirstDegrees {
  bool fits = false;
  T c[4];

  explicit FirstDegrees(const AtommlCoupling& k) {
    static constexpr int64_t degrees[12] = {0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0};
    static constexpr int32_t index[40] = {0, 0, 0, 0, 0, 1, 1, 1, 0, 2, 2, 1, 0, 3, 3, 1, 1, 0, 1, 2,
                                          2, 0, 2, 2, 3, 0, 3, 2, 1, 1, 0, 3, 2, 2, 0, 3, 3, 3, 0, 3};
    if (k.dim_x != 4 || k.dim_y != 4 || k.dim_out != 4 || k.paths != 4 || k.first[4] != 10) return;
    if (!std::equal(degrees, std::end(degrees), k.degrees) || !std::equal(index, std::end(index), k.index)) return;
    fits = true;
    for (int t = 0; t < 4; ++t) c[t] = T(k.value[k.first[t]]);
    for (int64_t n = 0; n < 10; ++n) fits &= T(k.value[n]) == c[k.index[4 * n + 3]];
  }
};

template <class T> struct FirstConv {
  const Terms<T>& terms;
  const AtommlEdges& edges;
  T* out;
  int64_t channels;
  const T* c;  // one number for each path

  template <int V, bool Full> void vectors(int64_t row, int64_t first, int n) const {
    constexpr int64_t ahead = 6;
    Vec<T> acc[4][V] = {};
    for (const Term<T>& term : terms) {
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        const T *xe = term.x + edges.other[e] * 4 * channels + first, *ye = term.y + 4 * e;
        const T* we = term.w + e * 4 * channels + first;
        const int64_t later = std::min(k + ahead, edges.edges - 1);
        const T* next = term.w + (edges.edge ? edges.edge[later] : later) * 4 * channels + first;
        const Vec<T> y00 = broadcast(c[0] * ye[0]), y0 = broadcast(c[2] * ye[0]);
        UNROLL for (int v = 0; v < V; ++v) {
          const int64_t shift = v * kLanes<T>;
          UNROLL for (int t = 0; t < 4; ++t) __builtin_prefetch(next + t * channels + shift);
          Vec<T> x[4];
          UNROLL for (int a = 0; a < 4; ++a) x[a] = load_n<Full>(xe + a * channels + shift, n);
          Vec<T> product = broadcast(ye[1]) * x[1];
          UNROLL for (int a = 2; a < 4; ++a) product += broadcast(ye[a]) * x[a];
          acc[0][v] += (y00 * load_n<Full>(we + shift, n)) * x[0];
          acc[0][v] += (broadcast(c[3]) * load_n<Full>(we + 3 * channels + shift, n)) * product;
          const Vec<T> scalar = (broadcast(c[1]) * load_n<Full>(we + channels + shift, n)) * x[0];
          const Vec<T> scale = y0 * load_n<Full>(we + 2 * channels + shift, n);
          UNROLL for (int a = 1; a < 4; ++a) {
            acc[a][v] += broadcast(ye[a]) * scalar;
            acc[a][v] += scale * x[a];
          }
        }
      }
    }
    UNROLL for (int a = 0; a < 4; ++a) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(out + (row * 4 + a) * channels + first + v * kLanes<T>, acc[a][v], n);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      visit_channels<T, kRegisters == 32 ? 4 : 2>(channels, [&](auto count, auto full, int64_t first, int n) {
        vectors<count, full>(row, first, n);
      });
  }
};

// The gradients dx, dy and dw in one pass over the edges that leave an atom, so that each weight is read once:
//
//   dx_0 = c_0 w_0 y_0 s_0 + c_1 w_1 (y · s),    dx = c_3 w_3 s_0 y + c_2 w_2 y_0 s,
//   dw_0 = c_0 y_0 x_0 s_0, dw_1 = c_1 x_0 (y · s), dw_2 = c_2 y_0 (x · s), dw_3 = c_3 s_0 (y · x) and, summed over
//   channels, dy_0 = c_0 w_0 x_0 s_0 + c_2 w_2 (x · s), dy = c_1 w_1 x_0 s + c_3 w_3 s_0 x.
template <class T> struct FirstAdjoint {
  const Gradients<T>& g;
  int64_t channels;
  const T* c;
  bool streamed;  // dw past the cache

  // Weights of an edge times the numbers of their paths.
  template <bool Full> INLINE void weights(const T* w, int64_t at, Vec<T> (&out)[4], int n) const {
    UNROLL for (int t = 0; t < 4; ++t) out[t] = broadcast(c[t]) * load_n<Full>(w + at + t * channels, n);
  }

  template <bool Full>
  INLINE void features(int64_t e, int64_t at, const Vec<T> (&s)[4], Vec<T> (&dx)[4], int n) const {
    for (const Term<T>& term : g.of_x) {
      const T* y = term.y + 4 * e;
      const Vec<T> y0 = broadcast(y[0]), y1 = broadcast(y[1]), y2 = broadcast(y[2]), y3 = broadcast(y[3]);
      Vec<T> w[4];
      weights<Full>(term.w, at, w, n);
      dx[0] += w[0] * (y0 * s[0]) + w[1] * (y1 * s[1] + y2 * s[2] + y3 * s[3]);
      const Vec<T> spread = w[3] * s[0], scale = w[2] * y0;
      dx[1] += spread * y1 + scale * s[1];
      dx[2] += spread * y2 + scale * s[2];
      dx[3] += spread * y3 + scale * s[3];
    }
  }

  template <bool Full>
  INLINE void edge(int64_t e, int64_t at, int64_t own, const Vec<T> (&s)[4], Vec<T> (&total)[4], int n) const {
    Vec<T> dweight[4] = {};
    for (const Term<T>& term : g.of_yw) {
      Vec<T> x[4];
      UNROLL for (int a = 0; a < 4; ++a) x[a] = load_n<Full>(term.x + own + a * channels, n);
      const Vec<T> scalars = x[0] * s[0], vectors = x[1] * s[1] + x[2] * s[2] + x[3] * s[3];
      if (g.dw && term.y) {
        const T* y = term.y + 4 * e;
        const Vec<T> y1 = broadcast(y[1]), y2 = broadcast(y[2]), y3 = broadcast(y[3]);
        dweight[0] += broadcast(y[0]) * scalars;
        dweight[1] += x[0] * (y1 * s[1] + y2 * s[2] + y3 * s[3]);
        dweight[2] += broadcast(y[0]) * vectors;
        dweight[3] += s[0] * (y1 * x[1] + y2 * x[2] + y3 * x[3]);
      }
      if (g.dy && term.w) {
        Vec<T> w[4];
        weights<Full>(term.w, at, w, n);
        total[0] += w[0] * scalars + w[2] * vectors;
        const Vec<T> of_s = w[1] * x[0], of_x = w[3] * s[0];
        UNROLL for (int b = 1; b < 4; ++b) total[b] += of_s * s[b] + of_x * x[b];
      }
    }
    if (!g.dw) return;
    UNROLL for (int t = 0; t < 4; ++t) {
      T* dwe = g.dw + at + t * channels;
      if (Full && streamed) stream(dwe, broadcast(c[t]) * dweight[t]);
      else store_n<Full>(dwe, broadcast(c[t]) * dweight[t], n);
    }
  }

  // V vectors of channels from `first` on.
  template <int V, bool Full> void vectors(int64_t row, int64_t first, int n) const {
    constexpr int64_t ahead = 4;
    const AtommlEdges& edges = *g.by_neighbor;
    Vec<T> dx[V][4] = {};
    for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
      const int64_t e = edges.edge[k], later = edges.edge[std::min(k + ahead, edges.edges - 1)];
      Vec<T> total[4] = {};
      UNROLL for (int v = 0; v < V; ++v) {
        const int64_t shift = first + v * kLanes<T>, at = e * 4 * channels + shift;
        Vec<T> s[4];
        UNROLL for (int a = 0; a < 4; ++a) {
          s[a] = load_n<Full>(g.s + (edges.other[e] * 4 + a) * channels + shift, n);
          if (g.of_x.n) __builtin_prefetch(g.of_x.term[0].w + (later * 4 + a) * channels + shift);
        }
        if (g.dx) features<Full>(e, at, s, dx[v], n);
        if (g.dy || g.dw) edge<Full>(e, at, row * 4 * channels + shift, s, total, n);
      }
      if (!g.dy) continue;
      UNROLL for (int b = 0; b < 4; ++b) g.dy[4 * e + b] = first ? g.dy[4 * e + b] + sum<T>(total[b]) : sum<T>(total[b]);
    }
    if (!g.dx) return;
    UNROLL for (int a = 0; a < 4; ++a) {
      UNROLL for (int v = 0; v < V; ++v)
        store_n<Full>(g.dx + (row * 4 + a) * channels + first + v * kLanes<T>, dx[v][a], n);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      visit_channels<T, kRegisters == 32 ? 4 : 1>(channels, [&](auto count, auto full, int64_t first, int n) {
        vectors<count, full>(row, first, n);
      });
    stream_end();
  }
};

}  // namespace atomml
