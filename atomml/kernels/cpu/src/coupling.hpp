// Plans of a coupling tensor with one weight per path, built anew for every call: microseconds.
#pragma once
#include <algorithm>
#include <vector>

#include "api.h"
#include "simd.hpp"

namespace atomml {

// One path l1 ⊗ l2 → l3: components a0.. of the input, b0.. of the harmonics, k0.. of the output.
struct PathPlan {
  int64_t path, a0, b0, k0;
  int d1, d2, d3;
  bool diagonal;   // couples component m of the input to component m of the output only, as l2 = 0 does
  int64_t matrix;  // where its matrix G[k][a] (or its diagonal) starts among all those of an edge
  int64_t size;    // numbers in it
};

// Path t of a coupling; with `swap` input and output change places.
inline PathPlan plan_path(const AtommlCoupling& c, int64_t t, bool swap) {
  const int64_t l1 = c.degrees[3 * t + (swap ? 2 : 0)], l2 = c.degrees[3 * t + 1], l3 = c.degrees[3 * t + (swap ? 0 : 2)];
  PathPlan p{t, l1 * l1, l2 * l2, l3 * l3, int(2 * l1 + 1), int(2 * l2 + 1), int(2 * l3 + 1), l1 == l3, 0, 0};
  for (int64_t n = c.first[t]; n < c.first[t + 1]; ++n)
    p.diagonal = p.diagonal && c.index[4 * n] - l1 * l1 == c.index[4 * n + 2] - l3 * l3;
  p.size = p.diagonal ? p.d3 : p.d1 * p.d3;
  return p;
}

// G_t[k,a] = sum_b M_t[a,b,k] y[b] for all paths t. The matrices of the paths of one l2 lie side by side, so that
// they are one short sum of long vectors.
template <class T> struct MatrixPlan {
  struct Degree {
    int64_t b0, d2, start, size;  // components of the harmonics; where the matrices start, and their numbers, padded
    std::vector<T> table;         // d2 rows of `size` numbers
  };
  std::vector<PathPlan> paths;  // sorted by output
  std::vector<Degree> degrees;
  int64_t numbers = 0;  // of all matrices of one edge

  // With `swap` input and output change places: the adjoint in x.
  MatrixPlan(const AtommlCoupling& c, bool swap) {
    for (int64_t t = 0; t < c.paths; ++t) paths.push_back(plan_path(c, t, swap));
    std::stable_sort(paths.begin(), paths.end(), [](auto& u, auto& v) { return u.b0 < v.b0; });
    for (size_t from = 0, to; from < paths.size(); from = to) {
      Degree degree{paths[from].b0, paths[from].d2, numbers, 0, {}};
      for (to = from; to < paths.size() && paths[to].b0 == degree.b0; ++to) {
        paths[to].matrix = numbers + degree.size;
        degree.size += paths[to].size;
      }
      degree.size = (degree.size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
      degree.table.assign(degree.size * degree.d2, T(0));
      for (size_t n = from; n < to; ++n)
        fill(c, paths[n], degree.table.data() + paths[n].matrix - numbers, degree.size, swap);
      numbers += degree.size;
      degrees.push_back(std::move(degree));
    }
    std::stable_sort(paths.begin(), paths.end(), [](auto& u, auto& v) { return u.k0 < v.k0; });
  }

  // All matrices of one edge.
  void matrices(const T* y, T* out) const {
    for (const Degree& degree : degrees) {
      const T* table = degree.table.data();
      for (int64_t m = 0; m < degree.size; m += kLanes<T>) {
        Vec<T> g = broadcast(y[degree.b0]) * load(table + m);
        for (int64_t b = 1; b < degree.d2; ++b) g += broadcast(y[degree.b0 + b]) * load(table + b * degree.size + m);
        store(out + degree.start + m, g);
      }
    }
  }

 private:
  static void fill(const AtommlCoupling& c, const PathPlan& p, T* rows, int64_t stride, bool swap) {
    for (int64_t n = c.first[p.path]; n < c.first[p.path + 1]; ++n) {
      const int64_t a = c.index[4 * n + (swap ? 2 : 0)] - p.a0, k = c.index[4 * n + (swap ? 0 : 2)] - p.k0;
      const int64_t b = c.index[4 * n + 1] - p.b0;
      rows[b * stride + (p.diagonal ? k : k * p.d1 + a)] += T(c.value[n]);
    }
  }
};

}  // namespace atomml
