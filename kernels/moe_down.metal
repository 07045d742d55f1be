// moe_down: y = sum over k of w_k (Wd h_k), plus sigmoid(g) * shared, plus the residual.
//
// Inputs
//   h        [tokens * K, WIDTH]  float32   output of moe_gate_up, in its order
//   weights  [tokens, K]          float32   routing weight of each (token, expert) pair
//   slots    [tokens, K]          uint32    slot of each pair
//   slab     [n]                  uint32    slots of RECORD words
//   shared   [tokens, HIDDEN]     T         output of the shared expert; not read without SHARED
//   gate     [tokens]             T         its gate, before the sigmoid; not read without SHARED
//   residual [tokens, HIDDEN]     T         not read without RESIDUAL
// Output
//   y        [tokens, HIDDEN]     T
// Template: T, S (type of scales and biases), HIDDEN, WIDTH (multiples of 32), BITS, GROUP, RECORD,
//   DOWN_W, DOWN_S, DOWN_B (word offsets), SHARED, RESIDUAL (bool).
// Grid: (32 * SIMDS * HIDDEN / ROWS, tokens, 1); threadgroup (32 * SIMDS, 1, 1).
// A threadgroup owns ROWS rows of the output of one token. Its threads process the (expert, chunk
// of 32 inputs) units of the token in turn, so that every width fills the lanes. There is no
// intermediate of K rows.
// Numerics: all sums in float with explicit fma; y is rounded once.

constexpr int ROWS = 4;
constexpr int SIMDS = 4;
constexpr int CHUNKS = WIDTH / CHUNK;
constexpr int ROW_WORDS = CHUNKS * BITS;
constexpr int GROUPS = WIDTH / GROUP;

threadgroup float parts[ROWS * SIMDS];

const int thread_index = int(thread_index_in_threadgroup);
const uint lane = thread_index_in_simdgroup;
const int simd = int(simdgroup_index_in_threadgroup);
const size_t token = threadgroup_position_in_grid.y;
const int row0 = int(threadgroup_position_in_grid.x) * ROWS;
const int n_experts = slots_shape[1];

float sum[ROWS] = {0};
for (int unit = thread_index; unit < n_experts * CHUNKS; unit += 32 * SIMDS) {
  const size_t pair = token * n_experts + unit / CHUNKS;
  const int c = unit % CHUNKS;
  const int g = c * CHUNK / GROUP;
  const device uint32_t* record = slab + size_t(slots[pair]) * RECORD;
  const device uint32_t* w = record + DOWN_W + row0 * ROW_WORDS + c * BITS;
  const device S* scales = (const device S*)(record + DOWN_S) + row0 * GROUPS + g;
  const device S* biases = (const device S*)(record + DOWN_B) + row0 * GROUPS + g;
  uint32_t words[ROWS][BITS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    load_chunk<BITS>(w + r * ROW_WORDS, words[r]);
  }
  const float weight = weights[pair];
  float hv[CHUNK];
#pragma unroll
  for (int j = 0; j < CHUNK; j += 4) {
    const float4 v = *(const device float4*)(h + pair * WIDTH + transposed<WIDTH>(c * CHUNK + j));
    hv[j] = v.x;
    hv[j + 1] = v.y;
    hv[j + 2] = v.z;
    hv[j + 3] = v.w;
  }
  const float h_sum = weight * scale_chunk<BITS>(hv);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    sum[r] = fma(weight * static_cast<float>(scales[r * GROUPS]), dot_chunk<BITS>(words[r], hv), sum[r]);
    sum[r] = fma(static_cast<float>(biases[r * GROUPS]), h_sum, sum[r]);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float value = simd_sum(sum[r]);
  if (lane == 0) {
    parts[r * SIMDS + simd] = value;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < ROWS) {
  float value = 0.0f;
  for (int s = 0; s < SIMDS; s++) {
    value += parts[thread_index * SIMDS + s];
  }
  const size_t at = token * HIDDEN + row0 + thread_index;
  if (SHARED) {
    const float open = 1.0f / (1.0f + metal::exp(-static_cast<float>(gate[token])));
    value = fma(open, static_cast<float>(shared[at]), value);
  }
  if (RESIDUAL) {
    value += static_cast<float>(residual[at]);
  }
  y[at] = static_cast<T>(value);
}
