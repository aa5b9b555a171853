// Fused evaluation of a tensor decomposition network: phases in which every thread has its own atoms.
#include <atomic>
#include <chrono>

#include "tdn_graph.hpp"
#include "tdn_nodes.hpp"
#include "tdn_repulsion.hpp"

namespace atomml {
namespace {

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin)
      if (spin > 2000) std::this_thread::yield();
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0}, phase_{0};
};

template <class T> struct Evaluator {
  TdnModel<T> model;
  HarmonicNorms norms;
  TdnState<T> state;
  std::vector<TdnScratch<T>> scratch;
  std::mutex one_at_a_time;

  explicit Evaluator(const AtommlTdnModel& given) : model(given) {}
};

template <class T, int V, bool One> struct Run {
  Evaluator<T>& all;
  const AtommlTdnInput& in;
  AtommlTdnOutput& out;
  int threads;
  std::vector<int64_t> first;  // atoms of each thread

  const TdnModel<T>& m = all.model;
  TdnState<T>& s = all.state;

  void evaluate() {
    prepare();
    if (!run_threads()) {
      threads = 1;
      first = {0, in.atoms};
      Barrier alone(1);
      work(0, alone);
    }
    finish();
  }

 private:
  // Whether all threads could be started; if not, nothing was computed.
  bool run_threads() {
    Barrier barrier(threads);
    std::atomic<int> go{0};
    std::vector<std::thread> workers;
    try {
      workers.reserve(threads);
      for (int k = 1; k < threads; ++k)
        workers.emplace_back([this, k, &barrier, &go] {
          while (go.load(std::memory_order_acquire) == 0) std::this_thread::yield();
          if (go.load() > 0) work(k, barrier);
        });
      go.store(1, std::memory_order_release);
    } catch (...) {
      go.store(-1, std::memory_order_release);
    }
    const bool started = go.load() > 0;
    if (started) work(0, barrier);
    for (auto& worker : workers) worker.join();
    return started;
  }

  // Graph and memory: all that can fail happens before threads start.
  void prepare() {
    order_atoms(in, m.cutoff, s);
    int64_t* given = s.given_ptr.resize(in.atoms + 1);
    std::fill_n(given, in.atoms + 1, 0);
    for (int64_t e = 0; e < in.pairs; ++e) ++given[in.center[e] + 1];
    for (int64_t i = 0; i < in.atoms; ++i) given[i + 1] += given[i];
    int64_t* ptr = s.row_ptr.resize(in.atoms + 1);
    ptr[0] = 0;
    threads = useful_threads(threads, double(in.atoms) * 50e3);
    std::vector<int64_t> even(in.atoms + 1, 0);
    parallel_rows(even.data(), in.atoms, threads, [&](int64_t b, int64_t e) { count_edges(in, m.cutoff, s, b, e); });
    int64_t most = 0;
    for (int64_t i = 0; i < in.atoms; ++i) most = std::max(most, ptr[i + 1]), ptr[i + 1] += ptr[i];
    s.resize(m, in.atoms, ptr[in.atoms], out.virial != nullptr);
    parallel_rows(ptr, in.atoms, threads, [&](int64_t b, int64_t e) { write_edges(in, m, s, b, e); });
    transpose_edges(s);
    for (int64_t i = 0; i < in.atoms; ++i) most = std::max(most, s.col_ptr[i + 1] - s.col_ptr[i]);
    first = split_rows(ptr, in.atoms, threads);
    if (int(all.scratch.size()) < threads) all.scratch.resize(threads);
    for (int k = 0; k < threads; ++k) all.scratch[k].resize(m, most);
  }

  void work(int k, Barrier& barrier) {
    int phase = 0;
    auto clock = std::chrono::steady_clock::now();
    auto next = [&] {
      const auto now = std::chrono::steady_clock::now();
      if (k == 0 && phase < 16) out.phases[phase] = std::chrono::duration<double>(now - clock).count();
      barrier.wait();
      clock = std::chrono::steady_clock::now();
      ++phase;
    };
    const int64_t begin = first[k], end = first[k + 1];
    const int64_t e0 = s.row_ptr[begin], e1 = s.row_ptr[end];
    TdnScratch<T>& space = all.scratch[k];
    const EdgeLoops<T, V, One> edges{m, s, space};
    const NodeFunctions<T, V, One> nodes{m, s, space};
    std::fill(s.energy.data() + begin, s.energy.data() + end, 0.0);
    rank_harmonics(m, norms(), m.at(m.b_first), m.ranks_first, s, s.q_first.data(), e0, e1);
    if (m.layers > 1) rank_harmonics(m, norms(), m.at(m.b), m.ranks, s, s.q.data(), e0, e1);
    next();
    for (int64_t t = 0; t < m.layers; ++t, next())
      for (int64_t i = begin; i < end; i += kBlock) forward(edges, nodes, t, i, std::min<int64_t>(kBlock, end - i));
    for (int64_t t = m.layers - 1; t >= 0; --t, next())
      for (int64_t i = begin; i < end; i += kBlock) backward(edges, nodes, t, i, std::min<int64_t>(kBlock, end - i));
    edge_forces(m, norms(), s, e0, e1);
    if (m.repulsion) add_repulsion(m, s, begin, end);
    next();
    for (int64_t i = begin; i < end; ++i) collect(i);
    next();
  }

  const HarmonicNorms& norms() const { return all.norms; }

  // One layer of n atoms from `first_atom` on: sums over neighbours, node functions, features of the next layer.
  void forward(const EdgeLoops<T, V, One>& edges, const NodeFunctions<T, V, One>& nodes, int64_t t, int64_t i0, int64_t n) {
    const AtommlTdnLayer& layer = m.layer[t];
    const int64_t row = nodes.row(), width = nodes.width();
    const bool last = t + 1 == m.layers;
    TdnScratch<T>& space = nodes.scratch;
    T *sums = space.block[0].data(), *many = space.block[1].data();
    T* message = last ? space.block[2].data() : s.message[t].data() + i0 * row;
    T* out_t = last ? space.block[3].data() : s.out[t].data() + i0 * row;
    T* x = s.x.data() + i0 * row;
    const int32_t* species = s.species.data() + i0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t begin = s.row_ptr[i0 + i], end = s.row_ptr[i0 + i + 1];
      edges.template radial<false>(layer, begin, end, nullptr);
      if (t == 0) {
        edges.template sum<true>(m.ranges_first, m.ranks_first, s.q_first.data(), m.at(layer.h_first), s.neighbor.data(), begin, end, nullptr, space.ranks.data());
        mix_atom<T, V, One>(m.at(m.d_first), space.ranks.data(), sums + i * row, m.dim, m.ranks_first, m.c);
      } else {
        edges.template sum<false>(m.ranges, m.ranks, s.q.data(), s.p[t].data(), s.neighbor.data(), begin, end, nullptr, space.ranks.data());
        mix_atom<T, V, One>(m.at(m.d), space.ranks.data(), sums + i * row, m.dim, m.ranks, m.c);
      }
    }
    const int64_t dim_out = (layer.lout + 1) * (layer.lout + 1);
    nodes.linear(m.at(layer.w_msg), sums, message, n, m.products > 0 ? m.lmax : layer.lout, false);
    for (int64_t i = 0; i < n; ++i) {
      nodes.powers(message + i * row, dim_out);
      nodes.many_body(layer, species[i], many + i * row);
    }
    nodes.linear(m.at(layer.w_out), many, out_t, n, layer.lout, false);
    if (t == 0)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t c = 0; c < width; c += kLanes<T>)
          store(out_t + i * row + c, load(out_t + i * row + c) + load(m.at(layer.res_first) + species[i] * width + c));
    else
      nodes.linear(m.at(layer.w_res), x, out_t, n, layer.lout, true, species);
    nodes.activate(layer, out_t, x, n);
    if (last) {
      nodes.readout(layer, x, i0, n, s.dx.data() + i0 * row);
      node_backward(nodes, t, i0, n, message, out_t);
      return;
    }
    nodes.readout(layer, x, i0, n, nullptr);
    nodes.linear(m.at(m.layer[t + 1].w_in), x, many, n, m.lmax, false);
    for (int64_t i = 0; i < n; ++i)
      mix_atom<T, V, One>(m.at(m.a), many + i * row, s.p[t + 1].data() + (i0 + i) * m.ranks * width, m.ranks, m.dim, m.c);
  }

  // From dE/dx of a layer's output to that of its sums, and of the features before it through the residual map.
  void node_backward(const NodeFunctions<T, V, One>& nodes, int64_t t, int64_t i0, int64_t n, const T* message, const T* out_t) {
    const AtommlTdnLayer& layer = m.layer[t];
    const int64_t row = nodes.row(), width = nodes.width(), lmessage = m.products > 0 ? m.lmax : layer.lout;
    TdnScratch<T>& space = nodes.scratch;
    T *dx = s.dx.data() + i0 * row, *dmany = space.block[0].data(), *dmessage = space.block[4].data(), *dsums = space.block[5].data();
    nodes.activate_adjoint(layer, out_t, dx, n);
    nodes.linear(m.at(layer.w_out_t), dx, dmany, n, layer.lout, false);
    for (int64_t i = 0; i < n; ++i) {
      nodes.powers(message + i * row, (layer.lout + 1) * (layer.lout + 1));
      nodes.many_body_adjoint(layer, s.species[i0 + i], dmany + i * row, dmessage + i * row);
    }
    if (lmessage < m.lmax) std::fill_n(dsums, n * row, T(0));
    nodes.linear(m.at(layer.w_msg_t), dmessage, dsums, n, lmessage, false);
    const int64_t ranks = t == 0 ? m.ranks_first : m.ranks;
    T* ds = t == 0 ? s.ds_first.data() : s.ds[t % 2].data();
    for (int64_t i = 0; i < n; ++i)
      mix_atom<T, V, One>(m.at(t == 0 ? m.d_first_t : m.d_t), dsums + i * row, ds + (i0 + i) * ranks * width, ranks, m.dim, m.c);
    if (t == 0) return;
    T* residual = space.block[0].data();
    if (layer.lout < m.lmax) std::fill_n(residual, n * row, T(0));
    nodes.linear(m.at(layer.w_res_t), dx, residual, n, layer.lout, false, s.species.data() + i0);
    std::copy_n(residual, n * row, dx);
  }

  // Gradients on the edges that leave n atoms, then through the features they carry to the layer before.
  void backward(const EdgeLoops<T, V, One>& edges, const NodeFunctions<T, V, One>& nodes, int64_t t, int64_t i0, int64_t n) {
    const AtommlTdnLayer& layer = m.layer[t];
    const int64_t row = nodes.row(), width = nodes.width();
    TdnScratch<T>& space = nodes.scratch;
    const bool last = t + 1 == m.layers;
    T* dh = space.block[0].data();
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = i0 + i, begin = s.col_ptr[j], end = s.col_ptr[j + 1];
      edges.template radial<true>(layer, begin, end, s.col_edge.data());
      if (t == 0) {
        edges.template adjoint<true>(m.ranges_first, m.ranks_first, s.q_first.data(), m.at(layer.h_first) + s.species[j] * width,
                                     s.ds_first.data(), begin, end, s.dq_first.data(), false, !last);
        continue;
      }
      const T* ds = s.ds[t % 2].data();
      edges.template adjoint<false>(m.ranges, m.ranks, s.q.data(), s.p[t].data() + j * m.ranks * width, ds, begin, end, s.dq.data(), !last, !last);
      edges.template sum<false>(m.ranges, m.ranks, s.q.data(), ds, s.center.data(), begin, end, s.col_edge.data(), space.ranks.data());
      mix_atom<T, V, One>(m.at(m.a_t), space.ranks.data(), dh + i * row, m.dim, m.ranks, m.c);
    }
    if (t == 0) return;
    T* dx = s.dx.data() + i0 * row;
    nodes.linear(m.at(layer.w_in_t), dh, dx, n, m.lmax, true);
    const T* readout = m.at(m.layer[t - 1].linear_readout);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < width; c += kLanes<T>) store(dx + i * row + c, load(dx + i * row + c) + load(readout + c));
    node_backward(nodes, t - 1, i0, n, s.message[t - 1].data() + i0 * row, s.out[t - 1].data() + i0 * row);
  }

  // Force and virial of an atom from its pairs, in double precision.
  void collect(int64_t i) {
    const int64_t given = s.order[i];
    double force[3] = {};
    for (int64_t e = s.row_ptr[i]; e < s.row_ptr[i + 1]; ++e)
      for (int k = 0; k < 3; ++k) force[k] += double(s.pair_force[k][e]);
    for (int64_t c = s.col_ptr[i]; c < s.col_ptr[i + 1]; ++c)
      for (int k = 0; k < 3; ++k) force[k] -= double(s.pair_force[k][s.col_edge[c]]);
    for (int k = 0; k < 3; ++k) out.forces[3 * given + k] = force[k];
    out.energies[given] = m.offsets[s.species[i]] + m.scale * s.energy[i];
    if (out.features) std::copy_n(s.x.data() + i * m.dim * m.c, m.c, static_cast<T*>(out.features) + given * m.c);
    if (!out.virial) return;
    double* virial = s.atom_virial.data() + 9 * i;
    std::fill_n(virial, 9, 0.0);
    for (int64_t e = s.row_ptr[i]; e < s.row_ptr[i + 1]; ++e)
      for (int a = 0; a < 3; ++a) {
        const double r = s.distance[e] * double(s.unit[a][e]);
        for (int b = 0; b < 3; ++b) virial[3 * a + b] += r * double(s.pair_force[b][e]);
      }
  }

  void finish() {
    if (!out.virial) return;
    std::fill_n(out.virial, 9 * in.graphs, 0.0);
    for (int64_t given = 0; given < in.atoms; ++given)
      for (int k = 0; k < 9; ++k) out.virial[9 * in.graph[given] + k] += s.atom_virial[9 * s.place[given] + k];
  }
};

template <class T> int evaluate(void* handle, const AtommlTdnInput& in, AtommlTdnOutput& out) {
  auto& all = *static_cast<Evaluator<T>*>(handle);
  if (!valid(in, all.model.species)) return kBadIndex;
  return guarded([&] {
    const std::lock_guard<std::mutex> lock(all.one_at_a_time);
    const int64_t vectors = all.model.c / kLanes<T>;
    const int threads = int(in.threads);
    // as many vectors at a time as the registers allow; the commonest widths are known to the compiler
    if constexpr (kRegisters == 32) {
      if (vectors == 4) return Run<T, 4, true>{all, in, out, threads, {}}.evaluate();
      if (vectors == 2) return Run<T, 2, true>{all, in, out, threads, {}}.evaluate();
      if (vectors % 4 == 0) return Run<T, 4, false>{all, in, out, threads, {}}.evaluate();
    } else if (vectors % 2 == 0) {
      return Run<T, 2, false>{all, in, out, threads, {}}.evaluate();
    }
    Run<T, 1, false>{all, in, out, threads, {}}.evaluate();
  });
}

template <class T> void* create(const AtommlTdnModel& model) {
  try {
    return new Evaluator<T>(model);
  } catch (...) {
    return nullptr;
  }
}

}  // namespace
}  // namespace atomml

#define ATOMML_DEFINE(T, S)                                                                                      \
  int64_t atomml_tdn_lanes_##S(void) { return atomml::kLanes<T>; }                                               \
  void* atomml_tdn_create_##S(const AtommlTdnModel* model) { return atomml::create<T>(*model); }                 \
  int atomml_tdn_evaluate_##S(void* handle, const AtommlTdnInput* input, AtommlTdnOutput* output) {              \
    return atomml::evaluate<T>(handle, *input, *output);                                                         \
  }                                                                                                              \
  void atomml_tdn_destroy_##S(void* handle) { delete static_cast<atomml::Evaluator<T>*>(handle); }
ATOMML_DEFINE(float, f32)
ATOMML_DEFINE(double, f64)
