// The fused evaluation without Python: a random model on random atoms, run under the sanitizers by
// test_sanitizers.py. Forces against differences of the energy, threads against one thread, refused indices.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tdn_api.h"

namespace {

std::mt19937 generator(7);
int failures = 0;

void check(bool good, const char* what) {
  if (!good) {
    std::printf("FAILED: %s\n", what);
    ++failures;
  }
}

double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

template <class T> struct Functions;
template <> struct Functions<float> {
  static constexpr auto lanes = atomml_tdn_lanes_f32;
  static constexpr auto create = atomml_tdn_create_f32;
  static constexpr auto evaluate = atomml_tdn_evaluate_f32;
  static constexpr auto destroy = atomml_tdn_destroy_f32;
};
template <> struct Functions<double> {
  static constexpr auto lanes = atomml_tdn_lanes_f64;
  static constexpr auto create = atomml_tdn_create_f64;
  static constexpr auto evaluate = atomml_tdn_evaluate_f64;
  static constexpr auto destroy = atomml_tdn_destroy_f64;
};

// Arrays of exactly the size that the interface states, so that the address sanitizer sees any step beyond them.
template <class T> struct RandomModel {
  std::vector<std::vector<T>> arrays;
  std::vector<AtommlTdnLayer> layers;
  std::vector<int64_t> groups, groups_first, weights_first;
  std::vector<int32_t> terms;
  std::vector<double> offsets, repulsion;
  AtommlTdnModel model{};

  const T* numbers(int64_t n, double size) {
    std::vector<T> values(n);
    for (auto& v : values) v = T(uniform(-size, size));
    arrays.push_back(std::move(values));
    return arrays.back().data();
  }
  const T* transposed(const T* m, int64_t count, int64_t rows, int64_t columns) {
    std::vector<T> values(count * rows * columns);
    for (int64_t k = 0; k < count; ++k)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) values[(k * columns + j) * rows + i] = m[(k * rows + i) * columns + j];
    arrays.push_back(std::move(values));
    return arrays.back().data();
  }

  RandomModel(int64_t lmax, int64_t vectors, int64_t n_layers, int64_t products, int64_t nonlinearity, std::vector<int64_t> sizes)
      : groups(std::move(sizes)) {
    const int64_t c = vectors * Functions<T>::lanes(), dim = (lmax + 1) * (lmax + 1), species = 2, h = Functions<T>::lanes();
    int64_t ranks = 0;
    for (int64_t g : groups) ranks += g;
    groups_first = {1, dim - 1}, weights_first = {0, int64_t(groups.size()) - 1};
    model.lmax = lmax, model.c = c, model.h = h, model.species = species, model.products = products, model.layers = n_layers;
    model.nonlinearity = nonlinearity, model.cutoff = 3.0, model.scale = 0.7;
    offsets = {-3.0, -5.0}, model.offsets = offsets.data();
    model.n_groups = int64_t(groups.size()), model.first_groups = 2;
    model.groups = groups.data(), model.groups_first = groups_first.data(), model.table_group_first = weights_first.data();
    auto pair = [&](const void*& m, const void*& t, int64_t count, int64_t rows, int64_t columns, double size) {
      const T* values = numbers(count * rows * columns, size);
      m = values, t = transposed(values, count, rows, columns);
    };
    pair(model.a, model.a_t, 1, ranks, dim, 0.5);
    pair(model.d, model.d_t, 1, dim, ranks, 0.3);
    pair(model.d_first, model.d_first_t, 1, dim, dim, 0.5);
    model.b = numbers(dim * ranks, 0.5), model.b_first = numbers(dim * dim, 0.5);
    for (int32_t k = 0; k < dim; ++k)
      for (int32_t n = 0; n < 3; ++n) terms.insert(terms.end(), {int32_t(generator() % dim), int32_t(generator() % dim), k});
    model.terms = 3 * dim, model.term_index = terms.data(), model.term_value = numbers(3 * dim, 0.5);
    repulsion = {3, 17, std::pow(3, 0.23), std::pow(17, 0.23), 1.2, 1.0};
    model.repulsion = repulsion.data(), model.repulsion_reach = 0.9;
    for (int64_t t = 0; t < n_layers; ++t) layers.push_back(layer(t, lmax, c, h, species, pair));
    model.layer = layers.data();
  }

  template <class Pair> AtommlTdnLayer layer(int64_t t, int64_t lmax, int64_t c, int64_t h, int64_t species, Pair pair) {
    AtommlTdnLayer out{};
    const bool last = t + 1 == model.layers;
    out.lout = last ? 0 : lmax, out.intervals = 8 << t, out.spacing = model.cutoff / double(out.intervals);
    const double size = 1 / std::sqrt(double(c));
    out.table = numbers(out.intervals * 4 * model.n_groups * c, 0.3);
    pair(out.w_msg, out.w_msg_t, lmax + 1, c, c, size);
    pair(out.w_out, out.w_out_t, out.lout + 1, c, c, size);
    out.scales = numbers((model.products + 1) * species * (lmax + 1) * c, 0.5);
    if (t == 0) {
      out.h_first = numbers(species * c, 1), out.res_first = numbers(species * c, 1);
    } else {
      pair(out.w_in, out.w_in_t, lmax + 1, c, c, size);
      pair(out.w_res, out.w_res_t, species * (out.lout + 1), c, c, size);
    }
    if (model.nonlinearity == 1 && out.lout > 0) {
      pair(out.gate, out.gate_t, 1, c, out.lout * c, size);
      out.gate_bias = numbers(out.lout * c, 1);
    }
    if (model.nonlinearity == 2) out.slope = numbers((out.lout + 1) * c, 1), out.shift = numbers((out.lout + 1) * c, 1);
    if (!last) {
      out.linear_readout = numbers(c, size);
    } else {
      pair(out.hidden, out.hidden_t, 1, c, h, size);
      out.last_readout = numbers(h, 1);
    }
    return out;
  }
};

// Atoms in two cells, all pairs of a cell listed, most of them beyond the cutoff.
struct Structure {
  std::vector<int64_t> species, graph, neighbor, center;
  std::vector<double> positions, cells, shift;
  explicit Structure(int64_t n) : cells(18, 0.0) {
    for (int k = 0; k < 3; ++k) cells[4 * k] = cells[9 + 4 * k] = 7.0;
    for (int64_t i = 0; i < n; ++i) {
      species.push_back(int64_t(generator() % 2)), graph.push_back(i < n / 2 ? 0 : 1);
      for (int k = 0; k < 3; ++k) positions.push_back(uniform(0, 6));
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        if (i != j && graph[i] == graph[j]) {
          center.push_back(i), neighbor.push_back(j);
          shift.insert(shift.end(), {0.0, 0.0, 0.0});
        }
  }
  AtommlTdnInput input(int64_t threads) const {
    return {int64_t(species.size()), 2, int64_t(center.size()), species.data(), graph.data(), positions.data(), cells.data(),
            neighbor.data(), center.data(), shift.data(), threads};
  }
};

struct Result {
  std::vector<double> energies, forces, virial;
  int status;
  double total() const {
    double sum = 0;
    for (double e : energies) sum += e;
    return sum;
  }
};

template <class T> Result run(void* handle, const Structure& s, int64_t c, int64_t threads) {
  const size_t n = s.species.size();
  Result r{std::vector<double>(n), std::vector<double>(3 * n), std::vector<double>(18), 0};
  std::vector<T> features(n * c);
  AtommlTdnOutput out{r.energies.data(), r.forces.data(), r.virial.data(), features.data(), {}};
  const AtommlTdnInput in = s.input(threads);
  r.status = Functions<T>::evaluate(handle, &in, &out);
  return r;
}

void check_forces(void* handle, Structure s, int64_t c) {
  const Result at = run<double>(handle, s, c, 1);
  const double step = 1e-5;
  for (size_t k = 0; k < s.positions.size(); k += 5) {
    const double before = s.positions[k];
    s.positions[k] = before + step;
    const double high = run<double>(handle, s, c, 1).total();
    s.positions[k] = before - step;
    const double low = run<double>(handle, s, c, 1).total();
    s.positions[k] = before;
    const double force = (low - high) / (2 * step);
    check(std::abs(force - at.forces[k]) < 1e-5 * (1 + std::abs(force)), "forces are the derivative of the energy");
  }
}

template <class T> void cases(int64_t lmax, int64_t vectors, int64_t layers, int64_t products, int64_t nonlinearity) {
  RandomModel<T> random(lmax, vectors, layers, products, nonlinearity, lmax == 1 ? std::vector<int64_t>{6} : std::vector<int64_t>{9, 12, 16});
  void* handle = Functions<T>::create(&random.model);
  check(handle != nullptr, "a model is created");
  Structure s(30);
  const Result one = run<T>(handle, s, random.model.c, 1), three = run<T>(handle, s, random.model.c, 3);
  check(one.status == 0 && one.energies == three.energies && one.forces == three.forces && one.virial == three.virial,
        "results do not depend on the number of threads");
  if (sizeof(T) == 8) {
    // tables of random polynomials jump at their knots: one interval has none
    for (auto& layer : random.layers) layer.intervals = 1, layer.spacing = 100;
    Functions<T>::destroy(handle);
    handle = Functions<T>::create(&random.model);
    check_forces(handle, Structure(6), random.model.c);
  }
  Structure none(5);
  none.neighbor.clear(), none.center.clear(), none.shift.clear();
  check(run<T>(handle, none, random.model.c, 2).status == 0, "no pairs");
  Structure bad = s;
  bad.neighbor[3] = 30;
  check(run<T>(handle, bad, random.model.c, 1).status == 2, "a neighbour out of range is refused");
  bad = s, bad.center[0] = -1;
  check(run<T>(handle, bad, random.model.c, 1).status == 2, "a centre out of range is refused");
  bad = s, std::swap(bad.center.front(), bad.center.back());
  check(run<T>(handle, bad, random.model.c, 1).status == 2, "unsorted pairs are refused");
  bad = s, bad.species[1] = 2;
  check(run<T>(handle, bad, random.model.c, 1).status == 2, "an unknown species is refused");
  Functions<T>::destroy(handle);
}

}  // namespace

int main() {
  for (int64_t lmax = 1; lmax <= 4; ++lmax)
    for (int64_t vectors = 1; vectors <= 4; vectors += lmax < 3 ? 1 : 3) {
      const int64_t layers = 1 + (lmax + vectors) % 3, products = (lmax + vectors) % 4, nonlinearity = (lmax + vectors) % 3;
      cases<float>(lmax, vectors, layers, products, nonlinearity);
      cases<double>(lmax, vectors, layers, products, nonlinearity);
    }
  cases<float>(1, 8, 2, 1, 1);
  cases<double>(2, 5, 3, 2, 1);
  std::printf(failures ? "%d failures\n" : "all good\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
