// ---- tracks: everything over one axis of time ---------------------------------------------------------

const tracks = byId("tracks");
const axis = { left: 0, width: 0 };

function x(t) {
  return axis.left + toShown(t) / LENGTH * axis.width;
}

function colour(kind, number) {
  return `var(${COLOURS[kind] || `--k${number % 6}`})`;
}

function layTracks() {
  for (const old of tracks.querySelectorAll("svg, h3")) old.remove();
  const width = tracks.clientWidth, narrow = width < 560;
  const longest = Math.max(2, ...DATA.names.map((name) => name.length));
  axis.left = Math.min(narrow ? 64 : 130, longest * 7.2 + 10);
  axis.width = Math.max(50, width - axis.left - 8);
  readouts.length = 0;
  tracks.append(drawAxis(width), drawFaults(width), drawRows(width));
  for (const chart of DATA.charts) tracks.append(...drawChart(chart, width));
}

function sheet(width, height) {
  return draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
}

function drawAxis(width) {
  const svg = sheet(width, 20);
  const step = roundTime(LENGTH / Math.max(2, axis.width / 90));
  let free = 0;
  for (const s of stretches) {
    if (s.leapt) {
      svg.append(draw("text", { x: (x(s.t0) + x(s.t1)) / 2, y: 12, "text-anchor": "middle" }, "⋯"));
      free = x(s.t1);
      continue;
    }
    for (let t = Math.ceil(s.t0 / step) * step; t <= s.t1; t += step) {
      if (x(t) > width - 30 && t < s.t1) continue;
      const anchor = x(t) > width - 30 ? "end" : "middle";
      const half = span(t).length * 3.5;
      if (x(t) - half * (anchor === "end" ? 2 : 1) < free || (s !== stretches[stretches.length - 1] && x(t) + half > x(s.t1))) continue;
      free = x(t) + half + 10;
      svg.append(
        draw("text", { x: anchor === "end" ? width : x(t), y: 12, "text-anchor": anchor }, span(t)),
        draw("line", { x1: x(t), x2: x(t), y1: 16, y2: 20, class: "rule" }),
      );
    }
  }
  return svg;
}

const LETTER = 6.2; // pixels of a letter of a label, about

/** Faults as bars and marks, in as few lines as they fit without touching, with their labels beside them. */
function drawFaults(width) {
  const lanes = [], placed = [];
  DATA.faults.forEach((fault, number) => {
    const from = x(fault.from), to = x(Math.min(fault.to ?? fault.from, DATA.end));
    const text = [fault.kind, fault.who, fault.how].filter(Boolean).join(" · ");
    const bar = Math.max(to, from + 8), wanted = text.length * LETTER + 8;
    const right = width - bar, left = from - axis.left - 6, within = to - from;
    const inside = within > wanted || within > Math.max(left, right);
    const before = !inside && right < wanted && left > right;
    const most = Math.max(1, Math.floor(((inside ? within : before ? left : right) - 8) / LETTER));
    const label = text.length > most ? `${text.slice(0, most - 1)}…` : text;
    const size = label.length * LETTER + 8;
    const begin = before ? from - size : from - 6, end = inside || before ? bar : bar + size;
    let lane = lanes.findIndex((taken) => taken < begin - 4);
    if (lane < 0) lane = lanes.push(-1) - 1;
    lanes[lane] = end;
    placed.push({ fault, number, from, to, lane, label, inside, before });
  });
  const line = placed.length > 80 ? 8 : 19;
  const top = DATA.happenings.some((each) => each[1] === "violation") ? 16 : 2;
  const svg = sheet(width, top + Math.max(1, lanes.length) * line + 4);
  for (const { fault, number, from, to, lane, label, inside, before } of placed) {
    const y = top + lane * line;
    const item = draw("g", { class: `fault-item${fault.happened ? "" : " missed"}`, "data-fault": number });
    const when = fault.to === null ? span(fault.from) : `${span(fault.from)} to ${span(fault.to)}`;
    item.append(draw("title", {}, `${fault.kind} ${fault.who} ${fault.how} (${when})${fault.happened ? "" : ", did not happen"}`));
    if (fault.to === null) item.append(draw("path", { d: `M${from - 5} ${y + 2}h10l-5 9z` }));
    else item.append(draw("rect", { x: from, y: y + 0.5, width: Math.max(2, to - from), height: Math.max(4, line - 4), rx: 2 }));
    if (line > 8) {
      const at = inside ? from + 5 : before ? from - 7 : Math.max(to, from + 5) + 4;
      item.append(draw("text", { x: at, y: y + 12, class: "label", "text-anchor": before ? "end" : "start" }, label));
    }
    item.addEventListener("click", (event) => { event.stopPropagation(); show(fault.from); });
    svg.append(item);
  }
  if (!placed.length) svg.append(draw("text", { x: axis.left, y: top + 12 }, "no faults"));
  for (const [at, kind, text] of DATA.happenings) {
    if (kind !== "violation") continue;
    const mark = draw("path", { d: `M${x(at)} 1l5 5-5 5-5-5z`, class: "broken fault-item" }, draw("title", {}, text));
    mark.addEventListener("click", (event) => { event.stopPropagation(); show(at); });
    svg.append(mark);
  }
  return svg;
}

/** A row for each member: what is true of it, and below, thinner, what the others hold of it. */
function drawRows(width) {
  const row = count <= 12 ? 24 : count <= 30 ? 15 : 10, band = Math.round(row * 0.46), strip = Math.max(2, Math.round(row * 0.17));
  const svg = sheet(width, count * row + 6);
  for (const fault of DATA.faults) {
    if (fault.to === null || !fault.happened || fault.kind === "jump") continue;
    const from = x(fault.from);
    svg.append(draw("rect", { x: from, y: 0, width: Math.max(0, x(fault.to) - from), height: count * row, class: "veil" }));
  }
  const turns = DATA.names.map(() => []);
  for (const entry of DATA.turns) turns[entry[1]].push(entry);
  const opinions = gatherOpinions();
  DATA.names.forEach((name, place) => {
    const y = place * row + 3;
    const label = draw("text", { x: axis.left - 8, y: y + band / 2 + 4, "text-anchor": "end", class: "name" }, clip(name));
    if (row < 12) label.style.fontSize = `${row - 1}px`;
    svg.append(label, draw("line", { x1: axis.left, x2: axis.left + axis.width, y1: y + band / 2, y2: y + band / 2, class: "rule" }));
    turns[place].forEach(([at, , is, words], number) => {
      const next = turns[place][number + 1];
      const from = x(at), to = x(next ? next[0] : DATA.end);
      const fill = { 1: "--starting", 2: "--up", 3: "--paused", 4: "--starting" }[is];
      const title = draw("title", {}, `${name} ${words} at ${span(at)}`);
      if (fill) svg.append(draw("rect", { x: from, y, width: Math.max(1, to - from), height: band, fill: `var(${fill})` }, title));
      else svg.append(mark(is, from, y + band / 2, Math.max(3, band / 2), title));
    });
    for (const [from, to, kind, share] of opinions[place]) {
      svg.append(draw("rect", { x: from, y: y + band + 1, width: to - from, height: strip, fill: `var(--${kind})`, opacity: 0.3 + 0.7 * share }));
    }
  });
  for (const s of stretches.filter((each) => each.leapt)) {
    svg.append(draw("rect", { x: x(s.t0), y: -2, width: x(s.t1) - x(s.t0), height: count * row + 4, fill: "var(--page)" }),
      draw("path", { d: `M${x(s.t0)} 0V${count * row}M${x(s.t1)} 0V${count * row}`, class: "gap" }));
  }
  for (const [at, kind] of DATA.happenings) {
    if (kind === "violation") svg.append(draw("line", { x1: x(at), x2: x(at), y1: 0, y2: count * row, class: "broken" }));
  }
  return svg;
}

function mark(is, at, y, size, title) {
  const bad = is === 5 || is === 7;
  const d = bad ? `M${at - size} ${y - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}` : `M${at} ${y - size}v${2 * size}`;
  return draw("path", { d, fill: "none", stroke: `var(${bad ? "--dead" : "--left"})`, "stroke-width": 2 }, title);
}

function clip(name) {
  const most = Math.floor((axis.left - 8) / 7);
  return name.length > most ? `${name.slice(0, Math.max(1, most - 1))}…` : name;
}

/** Of each member, by pixel: the worst that others hold of it, and how large a part of them. */
function gatherOpinions() {
  const found = DATA.names.map(() => []);
  if (count < 2) return found;
  const tally = DATA.names.map(() => [0, 0, 0, 0, 0]);
  const is = new Uint8Array(count * count);
  const gone = new Uint8Array(count), turned = new Uint8Array(count);
  let v = 0, u = 0, running = 0;
  for (let pixel = 0; pixel < axis.width; pixel++) {
    const t = fromShown((pixel + 1) / axis.width * LENGTH);
    const peak = new Map();
    const shift = (of, before, after) => {
      tally[of][before]--;
      tally[of][after]++;
      if (after === 2 || after === 3) peak.set(of, [Math.max(peak.get(of)?.[0] ?? 0, tally[of][3]), Math.max(peak.get(of)?.[1] ?? 0, tally[of][2])]);
    };
    for (; v < viewAt.length && viewAt[v] <= t; v++) {
      const pair = viewBy[v] * count + viewOf[v];
      if (!gone[viewBy[v]]) shift(viewOf[v], is[pair], viewIs[v]);
      is[pair] = viewIs[v];
    }
    for (; u < DATA.turns.length && DATA.turns[u][0] <= t; u++) {
      const [, by, to] = DATA.turns[u], ends = RUNS.has(to) ? 0 : 1;
      running += (turned[by] && !gone[by] ? -1 : 0) + (ends ? 0 : 1);
      turned[by] = 1;
      if (ends !== gone[by]) for (let of = 0; of < count; of++) tally[of][is[by * count + of]] += ends ? -1 : 1;
      gone[by] = ends;
    }
    const at = axis.left + pixel;
    for (let of = 0; of < count; of++) {
      const [deadPeak, doubtPeak] = peak.get(of) ?? [0, 0];
      const dead = Math.max(deadPeak, tally[of][3]), doubt = Math.max(doubtPeak, tally[of][2]), left = tally[of][4];
      const lost = turned[of] && !gone[of] ? running - 1 - tally[of][1] - tally[of][2] - tally[of][3] - tally[of][4] : 0;
      const kind = dead ? "dead" : doubt ? "suspect" : left ? "left" : lost > 0 ? "k5" : "";
      if (!kind) continue;
      const share = Math.min(1, (dead || doubt || left || lost) / (count - 1));
      const last = found[of][found[of].length - 1];
      if (last && last[1] === at && last[2] === kind && Math.abs(last[3] - share) < 0.05) last[1] = at + 1;
      else found[of].push([at, at + 1, kind, share]);
    }
  }
  return found;
}

// ---- charts -------------------------------------------------------------------------------------------

const readouts = [];

function brief(n) {
  return figure(n < 10 ? Math.round(n * 10) / 10 : Math.round(n));
}

function drawChart(chart, width) {
  const height = 46, head = make("h3", {}, chart.title);
  const share = chart.mode === "share", level = chart.mode === "level";
  head.append(make("span", {}, share ? "of all" : level ? "" : chart.width > 1000 ? `per second, mean of ${span(chart.width)}` : "per second"));
  const rows = chart.series.map((series) => new Map(series.at.map((at, i) => [at, series.n[i]])));
  const shown = share ? rows.slice(0, 1) : rows;
  const value = (number, bucket) => {
    if (!share) return rows[number].get(bucket) ?? 0;
    const all = rows.reduce((sum, each) => sum + (each.get(bucket) ?? 0), 0);
    return all ? (rows[0].get(bucket) ?? 0) / all : 0;
  };
  shown.forEach((_, number) => {
    const name = chart.series[number].name, figures = make("b");
    const swatch = make("i");
    swatch.style.background = colour(name, number);
    head.append(make("span", {}, swatch, `${name} `, figures));
    readouts.push([figures, (t) => {
      const n = value(number, Math.floor(t / chart.width));
      return share ? `${(n * 100).toFixed(1)} %` : n && n < 10 && !Number.isInteger(n) ? n.toFixed(1) : figure(Math.round(n));
    }]);
  });
  const svg = sheet(width, height + 4);
  const buckets = [...new Set(rows.flatMap((each) => [...each.keys()]))].sort((a, b) => a - b);
  const sum = (bucket, from, to) => { let all = 0; for (let i = from; i < Math.min(to, shown.length); i++) all += value(i, bucket); return all; };
  const up = chart.mode === "mirror" ? 2 : shown.length;
  const mostUp = Math.max(...buckets.map((bucket) => sum(bucket, 0, up)), share ? 0.01 : 1e-9);
  const mostDown = Math.max(0, ...buckets.map((bucket) => sum(bucket, up, shown.length)));
  const scale = height / (mostUp + mostDown), base = mostUp * scale;
  for (const bucket of buckets) {
    const from = x(bucket * chart.width), to = x(Math.min(DATA.end, (bucket + 1) * chart.width));
    let above = base, below = base;
    shown.forEach((_, number) => {
      const size = value(number, bucket) * scale;
      if (!size) return;
      const y = number < up ? (above -= size) : (below += size) - size;
      svg.append(draw("rect", { x: from, y, width: Math.max(0.7, to - from - (to - from > 4 ? 1 : 0)), height: size, fill: colour(chart.series[number].name, number) }));
    });
  }
  svg.append(draw("line", { x1: axis.left, x2: axis.left + axis.width, y1: base, y2: base, class: "rule" }));
  svg.append(draw("text", { x: axis.left - 8, y: 10, "text-anchor": "end" }, share ? `${brief(mostUp * 100)} %` : brief(mostUp)));
  if (mostDown) svg.append(draw("text", { x: axis.left - 8, y: height + 2, "text-anchor": "end" }, brief(mostDown)));
  return [head, svg];
}
