// The page of one run. The moment that is shown is one number, `now`, in milliseconds of the run; everything
// that depends on it listens in `listeners`.

const VIEWS = ["unknown", "up", "suspect", "dead", "left"];
const TURNS = ["absent", "starting", "up", "paused", "leaving", "crashed", "left", "stopped"];
const RUNS = new Set([1, 2, 3, 4]);
const COLOURS = {
  up: "--up", suspect: "--suspect", dead: "--dead", left: "--left", alive: "--up", forgotten: "--k5", accepted: "--accepted",
  refused: "--refused", settled: "--up", failed: "--dead", lost: "--dead", open: "--accepted", other: "--k5",
  "end not known": "--k5",
};
const PLAY_S = 30;
const FRESH = 1000;
const count = DATA.names.length;
const listeners = [];
let now = 0;

// ---- time: stretches that were leapt over take little room ------------------------------------------

const stretches = [];
{
  const skipped = DATA.leaps.reduce((sum, [from, to]) => sum + to - from, 0);
  const gap = Math.max(1, Math.round((DATA.end - skipped) * 0.04));
  let t = 0, shown = 0;
  for (const [from, to] of DATA.leaps) {
    stretches.push({ t0: t, t1: from, d0: shown, d1: shown + from - t, leapt: false });
    shown += from - t;
    stretches.push({ t0: from, t1: to, d0: shown, d1: shown + gap, leapt: true });
    shown += gap;
    t = to;
  }
  stretches.push({ t0: t, t1: DATA.end, d0: shown, d1: shown + DATA.end - t, leapt: false });
}
const LENGTH = stretches[stretches.length - 1].d1;

function toShown(t) {
  const s = stretches.find((each) => t <= each.t1) || stretches[stretches.length - 1];
  return s.t1 === s.t0 ? s.d0 : s.d0 + (Math.min(t, s.t1) - s.t0) / (s.t1 - s.t0) * (s.d1 - s.d0);
}

function fromShown(d) {
  const s = stretches.find((each) => d <= each.d1) || stretches[stretches.length - 1];
  return s.d1 === s.d0 ? s.t0 : s.t0 + (Math.min(d, s.d1) - s.d0) / (s.d1 - s.d0) * (s.t1 - s.t0);
}

// ---- what holds at a moment ---------------------------------------------------------------------------

const [viewAt = [], viewBy = [], viewOf = [], viewIs = []] = DATA.views;
const held = new Uint8Array(count * count);
const turn = new Uint8Array(count);
let viewsDone = 0, turnsDone = 0, until = -1;

/** Bring `held` and `turn` to a moment. */
function seek(t) {
  if (t < until) {
    held.fill(0);
    turn.fill(0);
    viewsDone = turnsDone = 0;
  }
  until = t;
  for (; viewsDone < viewAt.length && viewAt[viewsDone] <= t; viewsDone++) {
    held[viewBy[viewsDone] * count + viewOf[viewsDone]] = viewIs[viewsDone];
  }
  for (; turnsDone < DATA.turns.length && DATA.turns[turnsDone][0] <= t; turnsDone++) {
    turn[DATA.turns[turnsDone][1]] = DATA.turns[turnsDone][2];
  }
}

/** How many of the views of those who run are wrong now, and how many there are. */
function agreement() {
  const found = { all: 0, dead: 0, up: 0, doubted: 0 };
  for (let by = 0; by < count; by++) {
    if (!RUNS.has(turn[by])) continue;
    for (let of = 0; of < count; of++) {
      if (of === by) continue;
      const view = held[by * count + of], runs = RUNS.has(turn[of]);
      found.all++;
      if (runs && view === 2) found.doubted++;
      else if (runs && view !== 1) found.dead++;
      else if (!runs && (view === 1 || view === 2)) found.up++;
    }
  }
  return found;
}

/** Where the page opens: at the first violation, when most is held dead or doubted, or at the first fault. */
function telling() {
  const violation = DATA.happenings.find((happening) => happening[1] === "violation");
  if (violation) return violation[0];
  let best = 0, most = 0, bad = 0;
  const is = new Uint8Array(count * count);
  for (let i = 0; i < viewAt.length; i++) {
    const pair = viewBy[i] * count + viewOf[i];
    bad += (viewIs[i] === 3) + (viewIs[i] === 2) * 0.5 - (is[pair] === 3) - (is[pair] === 2) * 0.5;
    is[pair] = viewIs[i];
    if (bad > most) [most, best] = [bad, viewAt[i]];
  }
  return most ? best : DATA.faults.length ? Math.min(DATA.faults[0].from, DATA.end) : DATA.end;
}
