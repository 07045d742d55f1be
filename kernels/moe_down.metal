// moe_down: y = sum over k of w_k (Wd h_k), plus sigmoid(g) * shared, plus the residual.
//
// Inputs
//   h        [tokens * K, WIDTH]  float32   of moe_gate_up, in its transposed order
//   weights  [tokens, K]          float32   routing weight of each (token, expert) pair
//   slots    [tokens, K]          uint32    slot of each pair
//   slab     [n]                  uint32    slots of RECORD words
//   shared   [tokens, HIDDEN]     T         output of the shared expert; not read without SHARED
//   gate     [tokens]             T         its gate, before the sigmoid; not read without SHARED
//   residual [tokens, HIDDEN]     T         not read without RESIDUAL
// Output
//   y        [tokens, HIDDEN]     T
// Template: T, S (type of scales and biases), HIDDEN, WIDTH, BITS, GROUP, RECORD, DOWN_W, DOWN_S,
//   DOWN_B (word offsets), SIMDS, SHARED, RESIDUAL (bool).
// Grid: (32 * SIMDS * ceil(HIDDEN / (ROWS * SIMDS)), tokens, 1); threadgroup (32 * SIMDS, 1, 1).
// A SIMD group owns ROWS rows of the output of one token and goes through its K experts; lane l takes
// chunks l, l + 32, ... of each. There is no intermediate of K rows and no threadgroup memory.
// Numerics: all sums in float with explicit fma; y is rounded once.

constexpr int ROWS = 2;
constexpr int CHUNKS = WIDTH / CHUNK;
constexpr int ROW_WORDS = CHUNKS * BITS;
constexpr int GROUPS = WIDTH / GROUP;

const uint lane = thread_index_in_simdgroup;
const size_t token = threadgroup_position_in_grid.y;
const int row0 = int(threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup) * ROWS;

const int n_experts = slots_shape[1];

float sum[ROWS] = {0};
for (int k = 0; k < n_experts; k++) {
  const size_t pair = token * n_experts + k;
  const device uint32_t* record = slab + size_t(slots[pair]) * RECORD;
  const device S* scales = (const device S*)(record + DOWN_S);
  const device S* biases = (const device S*)(record + DOWN_B);
  const float weight = weights[pair];
  for (int c = int(lane); c < CHUNKS; c += 32) {
    float hv[CHUNK];
    float h_sum = 0.0f;
#pragma unroll
    for (int j = 0; j < CHUNK; j++) {
      hv[j] = weight * h[pair * WIDTH + j * CHUNKS + c];
      h_sum += hv[j];
    }
    const int g = c * CHUNK / GROUP;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int row = row0 + r;
      if (row < HIDDEN) {
        uint32_t words[BITS];
        load_chunk<BITS>(record + DOWN_W + row * ROW_WORDS + c * BITS, words);
        sum[r] = fma(static_cast<float>(scales[row * GROUPS + g]), dot_chunk<BITS>(words, hv), sum[r]);
        sum[r] = fma(static_cast<float>(biases[row * GROUPS + g]), h_sum, sum[r]);
      }
    }
  }
}
for (int r = 0; r < ROWS; r++) {
  float value = simd_sum(sum[r]);
  const int row = row0 + r;
  if (lane == 0 && row < HIDDEN) {
    const size_t at = token * HIDDEN + row;
    if (SHARED) {
      const float open = 1.0f / (1.0f + metal::exp(-static_cast<float>(gate[token])));
      value = fma(open, static_cast<float>(shared[at]), value);
    }
    if (RESIDUAL) {
      value += static_cast<float>(residual[at]);
    }
    y[at] = static_cast<T>(value);
  }
}
