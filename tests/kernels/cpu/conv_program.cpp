// The convolutions without Python, run under the sanitizers by test_sanitizers.py: all functions on small random
// graphs against plain loops over the table of the coupling. The node-factored family is the table with entries
// a = b = k = rank and the group of the rank as path.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "api.h"

namespace {

std::mt19937 generator(11);
int failures = 0;

int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

// Exactly as long as the interface says, so that the address sanitizer sees any step beyond it.
template <class T> std::vector<T> numbers(size_t n) {
  std::vector<T> values(n);
  for (auto& v : values) v = T(std::uniform_real_distribution<double>(-1, 1)(generator));
  return values;
}

struct Graph {
  int64_t atoms, edges;
  std::vector<int64_t> neighbor, center, row_ptr, transpose, col_ptr;
  AtommlEdges by_center{}, by_neighbor{};

  Graph(int64_t n, int64_t e) : atoms(n), edges(e), row_ptr(n + 1, 0), col_ptr(n + 1, 0) {
    for (int64_t k = 0; k < e; ++k) ++row_ptr[1 + whole(0, int(n) - 2)];  // the last atom has no neighbour
    for (int64_t i = 0; i < n; ++i) {
      row_ptr[i + 1] += row_ptr[i];
      center.resize(row_ptr[i + 1], i);
    }
    for (int64_t k = 0; k < e; ++k) neighbor.push_back(whole(0, int(n) - 2));
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < e; ++k)
        if (neighbor[k] == j) transpose.push_back(k);
      col_ptr[j + 1] = int64_t(transpose.size());
    }
    by_center = {n, n, e, row_ptr.data(), nullptr, neighbor.data()};
    by_neighbor = {n, n, e, col_ptr.data(), transpose.data(), center.data()};
  }
};

struct Entry {
  int32_t a, b, k, path;
  double value;
};

// Sizes and entries; degrees only for the family with one weight per path, groups only for the other.
struct Table {
  int64_t dim_x, dim_y, dim_out, paths;
  std::vector<Entry> entries;
  std::vector<int64_t> degrees, groups;
};

template <class T> struct Functions;
#define FUNCTIONS(T, S)                                                    \
  template <> struct Functions<T> {                                        \
    static constexpr auto mix = atomml_mix_##S;                            \
    static constexpr auto cp_conv = atomml_cp_conv_##S;                    \
    static constexpr auto cp_backward = atomml_cp_backward_##S;            \
    static constexpr auto cp_backward2 = atomml_cp_backward2_##S;          \
    static constexpr auto cg_conv = atomml_cg_conv_##S;                    \
    static constexpr auto cg_backward = atomml_cg_backward_##S;            \
    static constexpr auto cg_backward2 = atomml_cg_backward2_##S;          \
  };
FUNCTIONS(float, f32)
FUNCTIONS(double, f64)

template <class T> using Numbers = std::vector<T>;

// Gradients of sum_i s_i S(x, y, w)_i in s, x, y, w by plain loops; adds to what is there.
template <class T>
void plain(const Graph& g, const Table& t, int64_t c, const Numbers<T>& s, const Numbers<T>& x, const Numbers<T>& y,
           const Numbers<T>& w, std::vector<double>* ds, std::vector<double>* dx, std::vector<double>* dy, std::vector<double>* dw) {
  for (int64_t e = 0; e < g.edges; ++e)
    for (const Entry& n : t.entries)
      for (int64_t m = 0; m < c; ++m) {
        const int64_t is = (g.center[e] * t.dim_out + n.k) * c + m, ix = (g.neighbor[e] * t.dim_x + n.a) * c + m;
        const int64_t iy = e * t.dim_y + n.b, iw = (e * t.paths + n.path) * c + m;
        if (ds) (*ds)[is] += n.value * x[ix] * y[iy] * w[iw];
        if (dx) (*dx)[ix] += n.value * s[is] * y[iy] * w[iw];
        if (dy) (*dy)[iy] += n.value * s[is] * x[ix] * w[iw];
        if (dw) (*dw)[iw] += n.value * s[is] * x[ix] * y[iy];
      }
}

template <class T> void compare(const Numbers<T>& actual, const std::vector<double>& expected, const char* what) {
  const double tolerance = sizeof(T) == 4 ? 2e-4 : 1e-11;
  for (size_t k = 0; k < actual.size(); ++k)
    if (!(std::abs(actual[k] - expected[k]) <= tolerance * (1 + std::abs(expected[k])))) {
      std::printf("FAILED: %s, element %zu: %g and not %g\n", what, k, double(actual[k]), expected[k]);
      ++failures;
      return;
    }
}

void expect(int status, int expected, const char* what) {
  if (status != expected) {
    std::printf("FAILED: %s returned %d\n", what, status);
    ++failures;
  }
}

template <class T> struct Case {
  using F = Functions<T>;
  Graph g;
  const Table& t;
  int64_t c;
  int threads;
  Numbers<T> s, x, y, w, alpha, beta, gamma;
  std::vector<int64_t> first;
  std::vector<int32_t> index;
  std::vector<double> value;
  AtommlCoupling coupling{};

  Case(const Table& table, int64_t atoms, int64_t edges, int64_t channels, int n_threads)
      : g(atoms, edges), t(table), c(channels), threads(n_threads) {
    s = numbers<T>(atoms * t.dim_out * c);
    x = numbers<T>(atoms * t.dim_x * c), alpha = numbers<T>(x.size());
    y = numbers<T>(edges * t.dim_y), beta = numbers<T>(y.size());
    w = numbers<T>(edges * t.paths * c), gamma = numbers<T>(w.size());
    for (const Entry& n : t.entries) {
      while (int64_t(first.size()) <= n.path) first.push_back(int64_t(value.size()));
      index.insert(index.end(), {n.a, n.b, n.k, n.path});
      value.push_back(n.value);
    }
    first.resize(t.paths + 1, int64_t(value.size()));
    coupling = {t.dim_x, t.dim_y, t.dim_out, t.paths, t.degrees.data(), first.data(), index.data(), value.data()};
  }

  bool factored() const { return !t.groups.empty(); }

  int conv(T* out) {
    return factored() ? F::cp_conv(x.data(), y.data(), w.data(), &g.by_center, out, t.groups.data(), t.paths, c, threads)
                      : F::cg_conv(x.data(), y.data(), w.data(), &g.by_center, out, &coupling, c, threads);
  }
  int backward(T* dx, T* dy, T* dw) {
    auto* center = dy || dw ? &g.by_center : nullptr;
    auto* neighbor = dx ? &g.by_neighbor : nullptr;
    return factored() ? F::cp_backward(s.data(), x.data(), y.data(), w.data(), center, neighbor, dx, dy, dw, t.groups.data(), t.paths, c, threads)
                      : F::cg_backward(s.data(), x.data(), y.data(), w.data(), center, neighbor, dx, dy, dw, &coupling, c, threads);
  }
  int backward2(const T* a, const T* b, const T* d, T* ds, T* dx, T* dy, T* dw) {
    return factored() ? F::cp_backward2(s.data(), x.data(), y.data(), w.data(), a, b, d, &g.by_center, &g.by_neighbor, ds, dx, dy, dw, t.groups.data(), t.paths, c, threads)
                      : F::cg_backward2(s.data(), x.data(), y.data(), w.data(), a, b, d, &g.by_center, &g.by_neighbor, ds, dx, dy, dw, &coupling, c, threads);
  }

  void values() {
    Numbers<T> out(s.size(), T(7)), dx(x.size(), T(7)), dy(y.size(), T(7)), dw(w.size(), T(7));
    for (int which = 0; which < 8; ++which) {  // cotangents that are there; results that are wanted for first gradients
      const bool a = which & 1, b = which & 2, d = which & 4;
      std::vector<double> e_s(s.size()), e_x(x.size()), e_y(y.size()), e_w(w.size());
      if (a) plain(g, t, c, s, alpha, y, w, &e_s, nullptr, &e_y, &e_w);
      if (b) plain(g, t, c, s, x, beta, w, &e_s, &e_x, nullptr, &e_w);
      if (d) plain(g, t, c, s, x, y, gamma, &e_s, &e_x, &e_y, nullptr);
      expect(backward2(a ? alpha.data() : nullptr, b ? beta.data() : nullptr, d ? gamma.data() : nullptr, out.data(), dx.data(), dy.data(), dw.data()), 0, "backward2");
      compare(out, e_s, "backward2 in s"), compare(dx, e_x, "backward2 in x"), compare(dy, e_y, "backward2 in y"), compare(dw, e_w, "backward2 in w");
      if (which == 0) continue;
      std::vector<double> f_s(s.size()), f_x(x.size()), f_y(y.size()), f_w(w.size());
      plain(g, t, c, s, x, y, w, &f_s, &f_x, &f_y, &f_w);
      expect(conv(out.data()), 0, "conv");
      expect(backward(a ? dx.data() : nullptr, b ? dy.data() : nullptr, d ? dw.data() : nullptr), 0, "backward");
      compare(out, f_s, "conv");
      if (a) compare(dx, f_x, "backward in x");
      if (b) compare(dy, f_y, "backward in y");
      if (d) compare(dw, f_w, "backward in w");
    }
  }

  // Every number of the index out of range, one after the other.
  void refusals() {
    Numbers<T> out(s.size()), dx(x.size()), dy(y.size()), dw(w.size());
    for (auto* part : {&g.neighbor, &g.center, &g.row_ptr, &g.transpose, &g.col_ptr})
      for (int64_t wrong : {int64_t(-1), int64_t(1) << 40}) {
        int64_t& number = (*part)[part->size() / 2];
        const int64_t kept = number;
        number = wrong;
        if (part == &g.neighbor || part == &g.row_ptr) expect(conv(out.data()), 2, "conv of a bad index");
        expect(backward(dx.data(), dy.data(), dw.data()), 2, "backward of a bad index");
        expect(backward2(alpha.data(), beta.data(), gamma.data(), out.data(), dx.data(), dy.data(), dw.data()), 2, "backward2 of a bad index");
        number = kept;
      }
  }
};

// All paths up to the degrees given, with random numbers where real harmonics couple; `first`: the table of
// degrees 0 and 1 that has a kernel of its own.
Table coupled(int lx, int ly, int lout, bool first) {
  Table t{(lx + 1) * (lx + 1), (ly + 1) * (ly + 1), (lout + 1) * (lout + 1), 0, {}, {}, {}};
  for (int l1 = 0; l1 <= lx; ++l1)
    for (int l2 = 0; l2 <= ly; ++l2)
      for (int l3 = std::abs(l1 - l2); l3 <= std::min(lout, l1 + l2); ++l3) {
        if (first && (l1 + l2 + l3) % 2) continue;
        for (int k = 0; k <= 2 * l3; ++k)
          for (int a = 0; a <= 2 * l1; ++a)
            for (int b = 0; b <= 2 * l2; ++b) {
              const int n1 = std::abs(a - l1), n2 = std::abs(b - l2), n3 = std::abs(k - l3);
              const int sines = (a < l1) + (b < l2) + (k < l3);
              if ((n2 != n1 + n3 && n2 != std::abs(n1 - n3)) || (sines + l1 + l2 + l3) % 2) continue;
              const double value = first ? 0.3 + 0.1 * double(t.paths) : numbers<double>(1)[0];
              t.entries.push_back({l1 * l1 + a, l2 * l2 + b, l3 * l3 + k, int32_t(t.paths), value});
            }
        t.degrees.insert(t.degrees.end(), {l1, l2, l3});
        ++t.paths;
      }
  return t;
}

Table factored(std::vector<int64_t> groups) {
  Table t{0, 0, 0, int64_t(groups.size()), {}, {}, std::move(groups)};
  int32_t rank = 0;
  for (int32_t path = 0; path < t.paths; ++path)
    for (int64_t n = 0; n < t.groups[path]; ++n, ++rank) t.entries.push_back({rank, rank, rank, path, 1.0});
  t.dim_x = t.dim_y = t.dim_out = rank;
  return t;
}

template <class T> void mixes() {
  for (int64_t c : {1, 19, 70})
    for (int64_t n : {0, 3}) {
      const int64_t rows = 17, columns = 4;
      const auto matrix = numbers<T>(rows * columns), x = numbers<T>(n * columns * c);
      Numbers<T> out(n * rows * c, T(7));
      std::vector<double> expected(out.size());
      for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t a = 0; a < columns; ++a)
            for (int64_t m = 0; m < c; ++m) expected[(i * rows + r) * c + m] += double(matrix[r * columns + a]) * x[(i * columns + a) * c + m];
      expect(Functions<T>::mix(matrix.data(), x.data(), out.data(), n, rows, columns, c, 2), 0, "mix");
      compare(out, expected, "mix");
    }
}

template <class T> void all() {
  std::vector<Table> tables{coupled(1, 1, 1, true), coupled(1, 1, 1, false), coupled(2, 2, 2, false), coupled(3, 2, 1, false),
                            coupled(1, 4, 4, false), factored({6}), factored({1, 9, 13})};
  for (const Table& t : tables)
    for (int64_t c : {1, 3, 16, 19, 69})
      for (int64_t edges : {0, 13}) {
        Case<T> test(t, 5, edges, c, whole(1, 3));
        test.values();
        if (edges) test.refusals();
      }
  Case<T>(tables[2], 40, 600, 33, 3).values();  // enough work for threads
  Case<T>(tables[6], 40, 600, 70, 3).values();
  mixes<T>();
}

}  // namespace

int main() {
  all<float>();
  all<double>();
  if (failures == 0) std::printf("all good\n");
  return failures != 0;
}
