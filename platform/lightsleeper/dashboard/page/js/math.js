// Pure functions of numbers.

// Indices on the Pareto front: no other point is at least as good in both and better in one; equal points stay together.
// `better` is "higher" or "lower" for each axis. Sorted by x.
function pareto(xs, ys, betterX, betterY) {
  const [signX, signY] = [betterX === "higher" ? -1 : 1, betterY === "higher" ? -1 : 1];
  const order = xs.map((_, i) => i).filter((i) => xs[i] !== null && ys[i] !== null);
  order.sort((a, b) => signX * (xs[a] - xs[b]) || signY * (ys[a] - ys[b]));
  const front = [];
  let best = Infinity;
  for (let i = 0; i < order.length;) {
    const x = xs[order[i]],
      top = signY * ys[order[i]];
    const better = top < best;
    for (; i < order.length && xs[order[i]] === x; i++)
      if (better && signY * ys[order[i]] === top) front.push(order[i]);
    best = Math.min(best, top);
  }
  return front.sort((a, b) => xs[a] - xs[b]);
}

// Inverse of the standard normal distribution (Acklam's rational approximation, relative error under 1.2e-9).
function probit(p) {
  const a = [
    -39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716, 2.506628277459239,
  ];
  const b = [-54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572];
  const c = [
    -0.007784894002430293, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968,
    2.938163982698783,
  ];
  const d = [0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416];
  const poly = (coefficients, x) => coefficients.reduce((sum, coefficient) => sum * x + coefficient, 0);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    return poly(c, q) / (poly(d, q) * q + 1);
  }
  if (p > 1 - 0.02425) return -probit(1 - p);
  const q = p - 0.5,
    r = q * q;
  return (poly(a, r) * q) / (poly(b, r) * r + 1);
}

// Mean and range of the values of each key, keys in order of first sight.
function spread(keys, values) {
  const groups = new Map();
  keys.forEach((key, i) => {
    if (!groups.has(key)) groups.set(key, { key, n: 0, sum: 0, low: Infinity, high: -Infinity, members: [] });
    const group = groups.get(key);
    group.n += 1;
    group.sum += values[i];
    group.low = Math.min(group.low, values[i]);
    group.high = Math.max(group.high, values[i]);
    group.members.push(i);
  });
  return [...groups.values()].map((group) => ({ ...group, mean: group.sum / group.n }));
}
