// gated_delta: the recurrence of gated delta networks over all positions of a prompt.
//
// Inputs
//   q, k     [rows, positions, HK, DK]  T
//   v        [rows, positions, HV, DV]  T
//   g        [rows, positions, HV], with VECTOR_GATE [rows, positions, HV, DK]: factor of the state
//   beta     [rows, positions, HV]
//   state    [rows, HV, DV, DK]  float32
//   present  [rows, positions]  bool: false leaves the state as it is; read only with MASKED
//   length   [1]  int32: the number of positions
// Outputs
//   y          [rows, positions, HV, DV]  T
//   new_state  [rows, HV, DV, DK]  float32
// Template: T (float, half or bfloat), DK (a multiple of 32), DV, HK, HV, VECTOR_GATE, MASKED.
// Grid: (32, DV rounded up to 4, rows * HV); threadgroup (32, 4, 1).
// Per position: S *= g; S += k (beta (v - S k)); y = S q. A SIMD group owns one row of S, that of
// one value; a lane holds DK / 32 of its numbers. No threadgroup memory.
// Numerics: all in float. y is also written where a position is masked.

constexpr int PER_LANE = DK / 32;

const uint lane = thread_index_in_simdgroup;
const int value = int(threadgroup_position_in_grid.y) * 4 + int(simdgroup_index_in_threadgroup);
if (value < DV) {
  const size_t row = threadgroup_position_in_grid.z / HV;
  const size_t head = threadgroup_position_in_grid.z % HV;
  const size_t key_head = head / (HV / HK);
  const size_t first = ((row * HV + head) * DV + value) * DK + lane * PER_LANE;
  const int n_positions = length[0];

  float s[PER_LANE];
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    s[i] = state[first + i];
  }
  for (int t = 0; t < n_positions; t++) {
    const size_t position = row * n_positions + t;
    const size_t at_head = position * HV + head;
    const size_t key = (position * HK + key_head) * DK + lane * PER_LANE;
    float next[PER_LANE];
    float keys[PER_LANE];
    float predicted = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      const size_t gate = VECTOR_GATE ? at_head * DK + lane * PER_LANE + i : at_head;
      keys[i] = static_cast<float>(k[key + i]);
      next[i] = s[i] * static_cast<float>(g[gate]);
      predicted += next[i] * keys[i];
    }
    predicted = simd_sum(predicted);
    const float wanted = static_cast<float>(v[at_head * DV + value]);
    const float delta = (wanted - predicted) * static_cast<float>(beta[at_head]);
    float out = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      next[i] += keys[i] * delta;
      out += next[i] * static_cast<float>(q[key + i]);
    }
    out = simd_sum(out);
    if (lane == 0) {
      y[at_head * DV + value] = static_cast<T>(out);
    }
    if (!MASKED || present[position]) {
#pragma unroll
      for (int i = 0; i < PER_LANE; i++) {
        s[i] = next[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    new_state[first + i] = s[i];
  }
}
