// moe_gate_up: h = silu(Wg x) * (Wu x) for each token and each of its experts, on packed records.
//
// Inputs
//   x      [tokens, HIDDEN]   T                activations, at a multiple of 4 elements
//   slots  [tokens, K]        uint32           slot of each (token, expert) pair
//   slab   [n]                uint32           slots of RECORD words; see docs/store-format.md
// Output
//   h      [tokens * K, WIDTH] float32         value i of a pair is at transposed(i), where moe_down
//                                              reads it; see dequant.h
// Template: T (float, half or bfloat), S (type of scales and biases), HIDDEN, WIDTH (multiples of 32),
//   BITS, GROUP, RECORD (words from slot to slot), GATE_W, GATE_S, GATE_B, UP_W, UP_S, UP_B (word
//   offsets of the components in a record).
// Grid: (32 * SIMDS * WIDTH / ROWS, tokens * K, 1); threadgroup (32 * SIMDS, 1, 1), with
//   SIMDS = ceil(HIDDEN / 1024).
// A threadgroup owns ROWS rows of gate and the same rows of up. A thread owns one chunk of 32 inputs,
// which stays in its registers for all rows; a SIMD group sums its 1024 inputs, and the sums of the
// SIMD groups are added through threadgroup memory.
// Numerics: products and sums in float with explicit fma; h stays float.

constexpr int ROWS = 8;
constexpr int CHUNKS = HIDDEN / CHUNK;
constexpr int SIMDS = (CHUNKS + 31) / 32;
constexpr int ROW_WORDS = CHUNKS * BITS;
constexpr int GROUPS = HIDDEN / GROUP;

threadgroup float gate_parts[ROWS * SIMDS];
threadgroup float up_parts[ROWS * SIMDS];

const int thread_index = int(thread_index_in_threadgroup);
const uint lane = thread_index_in_simdgroup;
const int simd = int(simdgroup_index_in_threadgroup);
const uint pair = threadgroup_position_in_grid.y;
const size_t token = pair / slots_shape[1];
const int row0 = int(threadgroup_position_in_grid.x) * ROWS;

float gate[ROWS] = {0};
float up[ROWS] = {0};
if (CHUNKS % 32 == 0 || thread_index < CHUNKS) {
  const int c = thread_index;
  const int g = c * CHUNK / GROUP;
  const device uint32_t* record = slab + size_t(slots[pair]) * RECORD;
  const device uint32_t* gate_w = record + GATE_W + row0 * ROW_WORDS + c * BITS;
  const device uint32_t* up_w = record + UP_W + row0 * ROW_WORDS + c * BITS;
  const device S* gate_s = (const device S*)(record + GATE_S) + row0 * GROUPS + g;
  const device S* gate_b = (const device S*)(record + GATE_B) + row0 * GROUPS + g;
  const device S* up_s = (const device S*)(record + UP_S) + row0 * GROUPS + g;
  const device S* up_b = (const device S*)(record + UP_B) + row0 * GROUPS + g;
  // Issue all reads of weights before the first one is used.
  uint32_t gate_words[ROWS][BITS];
  uint32_t up_words[ROWS][BITS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    load_chunk<BITS>(gate_w + r * ROW_WORDS, gate_words[r]);
    load_chunk<BITS>(up_w + r * ROW_WORDS, up_words[r]);
  }
  float xv[CHUNK];
#pragma unroll
  for (int j = 0; j < CHUNK; j += 4) {
    const metal::vec<T, 4> v = *(const device metal::vec<T, 4>*)(x + token * HIDDEN + c * CHUNK + j);
    xv[j] = static_cast<float>(v.x);
    xv[j + 1] = static_cast<float>(v.y);
    xv[j + 2] = static_cast<float>(v.z);
    xv[j + 3] = static_cast<float>(v.w);
  }
  const float x_sum = scale_chunk<BITS>(xv);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    gate[r] = fma(static_cast<float>(gate_s[r * GROUPS]), dot_chunk<BITS>(gate_words[r], xv),
                  static_cast<float>(gate_b[r * GROUPS]) * x_sum);
    up[r] = fma(static_cast<float>(up_s[r * GROUPS]), dot_chunk<BITS>(up_words[r], xv),
                static_cast<float>(up_b[r * GROUPS]) * x_sum);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float a = simd_sum(gate[r]);
  const float b = simd_sum(up[r]);
  if (lane == 0) {
    gate_parts[r * SIMDS + simd] = a;
    up_parts[r * SIMDS + simd] = b;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < ROWS) {
  float a = 0.0f;
  float b = 0.0f;
  for (int s = 0; s < SIMDS; s++) {
    a += gate_parts[thread_index * SIMDS + s];
    b += up_parts[thread_index * SIMDS + s];
  }
  const float silu = a / (1.0f + metal::exp(-a));
  h[size_t(pair) * WIDTH + transposed<WIDTH>(row0 + thread_index)] = silu * b;
}
