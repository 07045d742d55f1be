// Interleaved rANS with a static 12-bit table, for bench_exact_coding.py.
//
// Byte-wise rANS (Duda 2013; the form of Giesen's ryg_rans): symbol i belongs to state i % states,
// so that consecutive symbols do not depend on each other. The encoder writes backward, the decoder
// reads forward.

#include <stdint.h>
#include <string.h>

#define SCALE_BITS 12
#define LOWEST (1u << 23)
#define STATES 8

// Writes at the end of `out`; returns the first byte used, or -1 if it does not fit.
long rans_encode(const uint8_t* symbols, long n, const uint32_t* freq, const uint32_t* start,
                 uint8_t* out, long capacity, int states) {
  uint32_t state[STATES];
  long at = capacity;
  for (int s = 0; s < states; s++) state[s] = LOWEST;
  for (long i = n - 1; i >= 0; i--) {
    const uint32_t f = freq[symbols[i]];
    uint32_t x = state[i % states];
    const uint32_t limit = ((LOWEST >> SCALE_BITS) << 8) * f;
    while (x >= limit) {
      if (at <= 4 * states) return -1;
      out[--at] = (uint8_t)x;
      x >>= 8;
    }
    state[i % states] = ((x / f) << SCALE_BITS) + x % f + start[symbols[i]];
  }
  for (int s = states - 1; s >= 0; s--) {
    at -= 4;
    memcpy(out + at, &state[s], 4);
  }
  return at;
}

// table[slot] = symbol | freq << 8 | (slot - start) << 20, for STATES states.
void rans_decode(const uint8_t* in, uint8_t* symbols, long n, const uint32_t* table) {
  uint32_t x[STATES];
  memcpy(x, in, sizeof x);
  in += sizeof x;
  for (long i = 0; i < n; i += STATES) {
    const int m = n - i < STATES ? (int)(n - i) : STATES;
    for (int s = 0; s < m; s++) {
      const uint32_t entry = table[x[s] & ((1u << SCALE_BITS) - 1)];
      symbols[i + s] = (uint8_t)entry;
      x[s] = ((entry >> 8) & 4095u) * (x[s] >> SCALE_BITS) + (entry >> 20);
      while (x[s] < LOWEST) x[s] = (x[s] << 8) | *in++;
    }
  }
}
