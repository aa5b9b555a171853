// Loops over ranks and channels in pieces whose size the compiler knows.
#pragma once
#include <cstdint>
#include <type_traits>

#include "simd.hpp"

namespace atomml {

template <int N> using Int = std::integral_constant<int, N>;

// visit(Int<N>, offset) for tiles of at most `Most` <= 10 that cover `total`, as equal as possible.
template <int Most, class Visit> INLINE void visit_tiles(int64_t total, Visit visit) {
  int64_t done = 0;
  for (int64_t left = (total + Most - 1) / Most; left > 0; --left) {
    const int64_t size = (total - done + left - 1) / left;
    switch (size) {
#define ATOMML_TILE(N) \
  case N:              \
    if constexpr (N <= Most) visit(Int<N>{}, done); \
    break;
      ATOMML_TILE(1) ATOMML_TILE(2) ATOMML_TILE(3) ATOMML_TILE(4) ATOMML_TILE(5) ATOMML_TILE(6)
      ATOMML_TILE(7) ATOMML_TILE(8) ATOMML_TILE(9) ATOMML_TILE(10)
#undef ATOMML_TILE
    }
    done += size;
  }
}

// visit(Int<vectors>, full, channel, lanes of the last vector) over all channels, at most `Most` <= 4 vectors at a
// time; `full` is a type that says whether the last vector is full.
template <class T, int Most, class Visit> INLINE void visit_channels(int64_t channels, Visit visit) {
  constexpr int lanes = kLanes<T>;
  int64_t c = 0;
  if constexpr (Most >= 4)
    for (; c + 4 * lanes <= channels; c += 4 * lanes) visit(Int<4>{}, std::true_type{}, c, lanes);
  if constexpr (Most >= 2)
    for (; c + 2 * lanes <= channels; c += 2 * lanes) visit(Int<2>{}, std::true_type{}, c, lanes);
  for (; c + lanes <= channels; c += lanes) visit(Int<1>{}, std::true_type{}, c, lanes);
  if (c < channels) visit(Int<1>{}, std::false_type{}, c, int(channels - c));
}

}  // namespace atomml
