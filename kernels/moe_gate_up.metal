// moe_gate_up: h = silu(Wg x) * (Wu x) for each token and each of its experts, on packed records.
//
// Inputs
//   x      [tokens, HIDDEN]   T                activations
//   slots  [tokens, K]         uint32          slot of each (token, expert) pair
//   slab   [n]                uint32           slots of RECORD words; see docs/store-format.md
// Output
//   h      [tokens * K, WIDTH] float32         transposed in chunks of 32: value i of a pair is at
//                                              (i % 32) * (WIDTH / 32) + i / 32, which is the order
//                                              in which the lanes of moe_down read it
// Template: T (float, half or bfloat), S (type of scales and biases), HIDDEN, WIDTH, BITS, GROUP,
//   RECORD (words from slot to slot), GATE_W, GATE_S, GATE_B, UP_W, UP_S, UP_B (word offsets of the
//   components in a record), SIMDS (SIMD groups of a threadgroup).
// Grid: (32 * SIMDS * ceil(WIDTH / (ROWS * SIMDS)), tokens * K, 1); threadgroup (32 * SIMDS, 1, 1).
// A SIMD group owns ROWS rows of gate and the same rows of up; lane l takes chunks l, l + 32, ...
// Threadgroup memory: x as float, one word of padding a chunk, so that lanes meet no bank twice:
//   HIDDEN * 33 / 32 * 4 bytes.
// Numerics: products and sums in float with explicit fma; h stays float.

constexpr int ROWS = 4;
constexpr int CHUNKS = HIDDEN / CHUNK;
constexpr int ROW_WORDS = CHUNKS * BITS;
constexpr int GROUPS = HIDDEN / GROUP;

threadgroup float xs[CHUNKS * (CHUNK + 1)];

const uint lane = thread_index_in_simdgroup;
const uint pair = threadgroup_position_in_grid.y;
const size_t token = pair / slots_shape[1];
for (uint i = thread_index_in_threadgroup; i < HIDDEN; i += 32 * SIMDS) {
  xs[i + i / CHUNK] = static_cast<float>(x[token * HIDDEN + i]);
}
threadgroup_barrier(mem_flags::mem_threadgroup);

const int row0 = int(threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup) * ROWS;
const device uint32_t* record = slab + size_t(slots[pair]) * RECORD;
const device S* gate_s = (const device S*)(record + GATE_S);
const device S* gate_b = (const device S*)(record + GATE_B);
const device S* up_s = (const device S*)(record + UP_S);
const device S* up_b = (const device S*)(record + UP_B);

float gate[ROWS] = {0};
float up[ROWS] = {0};
for (int c = int(lane); c < CHUNKS; c += 32) {
  float xv[CHUNK];
  float x_sum = 0.0f;
#pragma unroll
  for (int j = 0; j < CHUNK; j++) {
    xv[j] = xs[c * (CHUNK + 1) + j];
    x_sum += xv[j];
  }
  const int g = c * CHUNK / GROUP;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int row = row0 + r;
    if (row < WIDTH) {
      uint32_t words[BITS];
      load_chunk<BITS>(record + GATE_W + row * ROW_WORDS + c * BITS, words);
      gate[r] = fma(static_cast<float>(gate_s[row * GROUPS + g]), dot_chunk<BITS>(words, xv), gate[r]);
      gate[r] = fma(static_cast<float>(gate_b[row * GROUPS + g]), x_sum, gate[r]);
      load_chunk<BITS>(record + UP_W + row * ROW_WORDS + c * BITS, words);
      up[r] = fma(static_cast<float>(up_s[row * GROUPS + g]), dot_chunk<BITS>(words, xv), up[r]);
      up[r] = fma(static_cast<float>(up_b[row * GROUPS + g]), x_sum, up[r]);
    }
  }
}
for (int r = 0; r < ROWS; r++) {
  const float a = simd_sum(gate[r]);
  const float b = simd_sum(up[r]);
  const int row = row0 + r;
  if (lane == 0 && row < WIDTH) {
    const float silu = a / (1.0f + metal::exp(-a));
    h[size_t(pair) * WIDTH + (row % CHUNK) * (WIDTH / CHUNK) + row / CHUNK] = silu * b;
  }
}
