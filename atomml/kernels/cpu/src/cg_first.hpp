// Degrees 0 and 1 with the four paths 000, 011, 101 and 110, for which memory is the limit and not arithmetic:
//
//   out_0 = c_0 w_0 y_0 x_0 + c_3 w_3 (y · x),    out = c_1 w_1 x_0 y + c_2 w_2 y_0 x
//
// with the vectors x, y, out of degree 1. In the adjoint in x paths 1 and 3 change places.
#pragma once
#include <algorithm>
#include <iterator>

#include "cg.hpp"

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
  const T* c;       // one number for each path
  int dot, spread;  // paths of degree 1 to 0 and of degree 0 to 1

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
          acc[0][v] += (broadcast(c[dot]) * load_n<Full>(we + dot * channels + shift, n)) * product;
          const Vec<T> scalar = (broadcast(c[spread]) * load_n<Full>(we + spread * channels + shift, n)) * x[0];
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
      over_channels<T, kRegisters == 32 ? 4 : 2>(channels, [&](auto count, auto full, int64_t first, int n) {
        vectors<count, full>(row, first, n);
      });
  }
};

// dw_0 = c_0 y_0 x_0 s_0, dw_1 = c_1 x_0 (y · s), dw_2 = c_2 y_0 (x · s), dw_3 = c_3 s_0 (y · x) and, summed over
// channels, dy_0 = c_0 w_0 x_0 s_0 + c_2 w_2 (x · s), dy = c_1 w_1 x_0 s + c_3 w_3 s_0 x.
template <class T> struct FirstAdjoint {
  const Terms<T>& terms;
  const T* s;
  const AtommlEdges& edges;
  T *dy, *dw;
  int64_t channels;
  const T* c;

  template <bool Full>
  INLINE void vector(int64_t e, const T* si, int64_t first, Vec<T> (&total)[4], int n) const {
    Vec<T> sv[4], dweight[4] = {};
    UNROLL for (int a = 0; a < 4; ++a) sv[a] = load_n<Full>(si + a * channels + first, n);
    for (const Term<T>& term : terms) {
      const T* xe = term.x + edges.other[e] * 4 * channels + first;
      Vec<T> x[4];
      UNROLL for (int a = 0; a < 4; ++a) x[a] = load_n<Full>(xe + a * channels, n);
      const Vec<T> scalars = x[0] * sv[0], vectors = x[1] * sv[1] + x[2] * sv[2] + x[3] * sv[3];
      if (dw && term.y) {
        const T* ye = term.y + 4 * e;
        const Vec<T> y1 = broadcast(ye[1]), y2 = broadcast(ye[2]), y3 = broadcast(ye[3]);
        dweight[0] += broadcast(ye[0]) * scalars;
        dweight[1] += x[0] * (y1 * sv[1] + y2 * sv[2] + y3 * sv[3]);
        dweight[2] += broadcast(ye[0]) * vectors;
        dweight[3] += sv[0] * (y1 * x[1] + y2 * x[2] + y3 * x[3]);
      }
      if (dy && term.w) {
        const T* we = term.w + e * 4 * channels + first;
        Vec<T> w[4];
        UNROLL for (int t = 0; t < 4; ++t) w[t] = broadcast(c[t]) * load_n<Full>(we + t * channels, n);
        total[0] += w[0] * scalars + w[2] * vectors;
        const Vec<T> of_s = w[1] * x[0], of_x = w[3] * sv[0];
        UNROLL for (int b = 1; b < 4; ++b) total[b] += of_s * sv[b] + of_x * x[b];
      }
    }
    if (dw) {
      T* dwe = dw + e * 4 * channels + first;
      UNROLL for (int t = 0; t < 4; ++t) store_n<Full>(dwe + t * channels, broadcast(c[t]) * dweight[t], n);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        const T* si = s + row * 4 * channels;
        Vec<T> total[4] = {};
        over_channels<T, 1>(channels, [&](auto, auto full, int64_t first, int n) { vector<full>(e, si, first, total, n); });
        if (dy) {
          UNROLL for (int b = 0; b < 4; ++b) dy[4 * e + b] = sum<T>(total[b]);
        }
      }
  }
};

}  // namespace atomml
