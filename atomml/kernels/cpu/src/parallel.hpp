// Threads that live for one call. Work is cut into contiguous ranges of rows, so that every row is computed by
// one thread in a fixed order: results do not depend on the number of threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "api.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace atomml {

// Work below which a thread costs more than it gains, in multiply-adds.
constexpr double kWorkPerThread = 400e3;

inline int useful_threads(int threads, double multiply_adds) {
  const double most = multiply_adds / kWorkPerThread;
  return most < 2 ? 1 : int(std::min<double>(threads, most));
}

// First row of each of `parts` ranges of n rows that hold about equally many edges; a row counts as one edge more.
inline std::vector<int64_t> split_rows(const int64_t* pointer, int64_t n, int parts) {
  std::vector<int64_t> first(parts + 1, n);
  first[0] = 0;
  for (int k = 1; k < parts; ++k) {
    const double goal = double(pointer[n] + n) * k / parts;
    int64_t low = first[k - 1], high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (double(pointer[middle] + middle) < goal) low = middle + 1;
      else high = middle;
    }
    first[k] = low;
  }
  return first;
}

// body(begin, end) on ranges of rows; an exception of any thread is thrown again in the caller.
template <class Body>
void parallel_rows(const int64_t* pointer, int64_t n, int threads, Body body) {
  if (threads <= 1 || n <= 1) {
    body(int64_t(0), n);
    return;
  }
  const auto first = split_rows(pointer, n, threads);
  std::vector<std::exception_ptr> errors(threads);
  auto run = [&](int k) {
    try {
      if (first[k] < first[k + 1]) body(first[k], first[k + 1]);
    } catch (...) {
      errors[k] = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  workers.reserve(threads - 1);
  int started = 1;
  for (; started < threads; ++started) {
    try {
      workers.emplace_back(run, started);
    } catch (...) {  // the system gives no more threads: the caller does the rest
      break;
    }
  }
  run(0);
  for (int k = started; k < threads; ++k) run(k);
  for (auto& worker : workers) worker.join();
  for (auto& error : errors)
    if (error) std::rethrow_exception(error);
}

constexpr uintptr_t kLargePage = 1 << 21;

// Fresh memory of a large result comes in pages that the system clears one by one: ask for large pages.
template <class T> void will_write(T* result, int64_t n) {
#if defined(__linux__)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(result) + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = reinterpret_cast<uintptr_t>(result + n) / kLargePage * kLargePage;
  if (result && end > begin + kLargePage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

constexpr int kDone = 0, kNoMemory = 1, kBadIndex = 2;

inline bool in_range(const int64_t* values, int64_t n, int64_t end) {
  bool good = true;
  for (int64_t k = 0; k < n; ++k) good &= uint64_t(values[k]) < uint64_t(end);
  return good;
}

inline bool valid(const AtommlEdges& edges) {
  bool good = edges.pointer[0] == 0 && edges.pointer[edges.rows] == edges.edges;
  for (int64_t k = 0; k < edges.rows; ++k) good &= edges.pointer[k] <= edges.pointer[k + 1];
  return good && in_range(edges.other, edges.edges, edges.others) &&
         (!edges.edge || in_range(edges.edge, edges.edges, edges.edges));
}

// What the C functions return after body().
template <class Body>
int guarded(Body body) noexcept {
  try {
    body();
    return kDone;
  } catch (...) {  // only allocations and the start of threads can fail here
    return kNoMemory;
  }
}

}  // namespace atomml
