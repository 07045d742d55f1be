// delta_step: one position of a gated delta net, from its input projections to its output projection.
//
// Inputs
//   qkv          [rows, CHANNELS]  T: HK queries and HK keys of DK, then HV values of DV
//   z            [rows, HV, DV]  T: gate of the output
//   b, a         [rows, HV]  T: logits of beta, and of the factor of the state
//   conv_state   [rows, TAPS - 1, CHANNELS]  T: qkv of the positions before
//   conv_weight  [CHANNELS, TAPS]  T
//   a_log        [HV]
//   dt_bias      [HV]
//   norm_weight  [DV]
//   state        [rows, HV, DV, DK]  float32
// Outputs
//   y          [rows, HV, DV]  T
//   new_conv   [rows, TAPS - 1, CHANNELS]  T
//   new_state  [rows, HV, DV, DK]  float32
// Template: T (float, half or bfloat), D (dtype of a + dt_bias), DK and DV (multiples of 32), HK, HV,
//   TAPS, EPS (of the output's norm, in units of 1e-9), SIMDS (SIMD groups of a threadgroup).
// Grid: (32 * SIMDS, HV, rows); threadgroup (32 * SIMDS, 1, 1).
// A threadgroup owns one head of values: the convolution and silu of its channels, the norms of its
// query and key, S *= g; S += k (beta (v - S k)); y = S q, the norm of y, and the gate silu(z). A
// SIMD group owns every SIMDS-th row of S. The first head of those that share a key writes its
// channels of new_conv. Threadgroup memory: 2 (DK + DV) floats.
// Numerics: all in float, rounded to T where mlx-lm's operations round: after the convolution, each
// factor of silu, the norms, beta, and y.

constexpr int PER_LANE = DK / 32;
constexpr int CHANNELS = 2 * HK * DK + HV * DV;
constexpr int SHARING = HV / HK;

threadgroup float query[DK];
threadgroup float key[DK];
threadgroup float values[DV];
threadgroup float out[DV];

const int thread_index = int(thread_index_in_threadgroup);
const uint lane = thread_index_in_simdgroup;
const int simd = int(simdgroup_index_in_threadgroup);
const int head = int(threadgroup_position_in_grid.y);
const size_t row = threadgroup_position_in_grid.z;
const int key_head = head / SHARING;

for (int i = thread_index; i < 2 * DK + DV; i += 32 * SIMDS) {
  const int channel = i < DK       ? key_head * DK + i
                      : i < 2 * DK ? (HK + key_head) * DK + i - DK
                                   : 2 * HK * DK + head * DV + i - 2 * DK;
  const bool writes = i >= 2 * DK || head % SHARING == 0;
  const float newest = static_cast<float>(qkv[row * CHANNELS + channel]);
  float sum = newest * static_cast<float>(conv_weight[channel * TAPS + TAPS - 1]);
#pragma unroll
  for (int tap = 0; tap < TAPS - 1; tap++) {
    const size_t at = (row * (TAPS - 1) + tap) * CHANNELS + channel;
    const T before = conv_state[at];
    sum += static_cast<float>(before) * static_cast<float>(conv_weight[channel * TAPS + tap]);
    if (writes && tap > 0) {
      new_conv[at - CHANNELS] = before;
    }
  }
  if (writes) {
    new_conv[(row * (TAPS - 1) + TAPS - 2) * CHANNELS + channel] = static_cast<T>(newest);
  }
  const float x = static_cast<float>(static_cast<T>(sum));
  const float s = static_cast<float>(static_cast<T>(1.0f / (1.0f + metal::exp(-x))));
  const float y_i = static_cast<float>(static_cast<T>(x * s));
  if (i < DK) {
    query[i] = y_i;
  } else if (i < 2 * DK) {
    key[i - DK] = y_i;
  } else {
    values[i - 2 * DK] = y_i;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// mlx-lm's normalize_qk: queries to length 1 / sqrt(DK), keys to length 1.
const float size = static_cast<float>(DK);
const float scale = metal::rsqrt(size);
float q[PER_LANE];
float k[PER_LANE];
float q_squares = 0.0f;
float k_squares = 0.0f;
#pragma unroll
for (int i = 0; i < PER_LANE; i++) {
  q[i] = query[lane * PER_LANE + i];
  k[i] = key[lane * PER_LANE + i];
  q_squares += q[i] * q[i];
  k_squares += k[i] * k[i];
}
const float q_norm = metal::rsqrt(simd_sum(q_squares) / size + 1e-6f / size);
const float k_norm = metal::rsqrt(simd_sum(k_squares) / size + 1e-6f / size);
const float q_scale = static_cast<float>(static_cast<T>(1.0f / size));
const float k_scale = static_cast<float>(static_cast<T>(scale));
#pragma unroll
for (int i = 0; i < PER_LANE; i++) {
  q[i] = static_cast<float>(static_cast<T>(q[i] * q_norm)) * q_scale;
  k[i] = static_cast<float>(static_cast<T>(k[i] * k_norm)) * k_scale;
  q[i] = static_cast<float>(static_cast<T>(q[i]));
  k[i] = static_cast<float>(static_cast<T>(k[i]));
}

const size_t at_head = row * HV + head;
const float beta = static_cast<float>(
    static_cast<T>(1.0f / (1.0f + metal::exp(-static_cast<float>(b[at_head])))));
const float step = static_cast<float>(static_cast<D>(
    static_cast<float>(a[at_head]) + static_cast<float>(dt_bias[head])));
const float softplus = static_cast<float>(static_cast<D>(
    (step > 0.0f ? step : 0.0f) + log1p(metal::exp(step > 0.0f ? -step : step))));
const float g = metal::exp(-metal::exp(static_cast<float>(a_log[head])) * softplus);

for (int value = simd; value < DV; value += SIMDS) {
  const size_t first = (at_head * DV + value) * DK + lane * PER_LANE;
  float s[PER_LANE];
  float predicted = 0.0f;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    s[i] = state[first + i] * g;
    predicted += s[i] * k[i];
  }
  const float delta = (values[value] - simd_sum(predicted)) * beta;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    s[i] += k[i] * delta;
    sum += s[i] * q[i];
    new_state[first + i] = s[i];
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    out[value] = static_cast<float>(static_cast<T>(sum));
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

float squares = 0.0f;
for (int i = int(lane); i < DV; i += 32) {
  squares += out[i] * out[i];
}
const float norm = metal::rsqrt(simd_sum(squares) / static_cast<float>(DV) + EPS * 1e-9f);
for (int i = thread_index; i < DV; i += 32 * SIMDS) {
  const float weight = static_cast<float>(norm_weight[i]);
  const float normed =
      static_cast<float>(static_cast<T>(weight * static_cast<float>(static_cast<T>(out[i] * norm))));
  const float gate = static_cast<float>(z[at_head * DV + i]);
  y[at_head * DV + i] = static_cast<T>(gate / (1.0f + metal::exp(-gate)) * normed);
}
