// The page of a sweep: how its runs ended, which failed, and how measures spread over them.

function heading(...names) {
  return make("thead", {}, make("tr", {}, ...names.map(([name, kind]) => make("th", { scope: "col", class: kind }, name))));
}

function fillRuns() {
  const failed = DATA.codes.filter(([code]) => code !== 0).reduce((sum, [, n]) => sum + n, 0);
  byId("name").textContent = DATA.scenario;
  byId("verdict").classList.add(failed ? "bad" : "good");
  byId("verdict").append(
    make("strong", {}, failed ? `${figure(failed)} of ${figure(DATA.runs)} failed` : `All ${figure(DATA.runs)} held`),
    make("span", {}, `seeds ${DATA.seeds[0][0]} to ${DATA.seeds[DATA.seeds.length - 1][0]}`),
  );
  for (const [code, n, meaning] of DATA.codes) {
    const bar = make("div", { class: `c${code}` });
    bar.style.width = `${Math.max(0.4, n / DATA.runs * 100)}%`;
    byId("codes").append(make("span", {}, `${figure(n)} × ${code}: ${meaning}`), make("div", { class: "track" }, bar));
  }
  byId("seeds").setAttribute("aria-label", `${DATA.seeds.length} runs by seed, coloured by exit code`);
  byId("seeds").append(...DATA.seeds.map(([seed, code]) => make("i", { class: `c${code}`, title: `seed ${seed}: ${code}` })));
}

function fillFailures() {
  if (!DATA.failures.length) {
    byId("failed").remove();
    return;
  }
  if (DATA.properties.length) {
    byId("properties").append(heading(["Property"], ["Runs", "number"]),
      make("tbody", {}, ...DATA.properties.map(([name, n]) => make("tr", {}, make("td", {}, make("code", {}, ...breakable(name))), make("td", { class: "number" }, figure(n))))));
  }
  const rows = DATA.failures.map(({ seed, code, failed, again }) => {
    const command = make("code", {}, again), button = make("button", { type: "button" }, "Copy");
    copier(button, command);
    return make("tr", {}, make("td", { class: "number" }, String(seed)), make("td", { class: "number" }, String(code)),
      make("td", {}, failed.join(", ") || "raised an exception"), make("td", {}, command, " ", button));
  });
  byId("failures").append(heading(["Seed", "number"], ["Code", "number"], ["What did not hold"], ["Run it again"]), make("tbody", {}, ...rows));
}

/** A histogram: runs that held, and on top of them runs that failed. */
function histogram({ name, runs, low, median, p99, high, held, failed }) {
  const width = 260, height = 56, bars = held.length;
  const most = Math.max(...held.map((n, i) => n + failed[i]));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height + 18}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}: from ${figure(low)} to ${figure(high)}` });
  const each = bars === 1 ? 26 : width / bars, gap = each > 4 ? 1 : 0, first = bars === 1 ? width / 2 - 13 : 0;
  held.forEach((n, i) => {
    const up = n / most * height, over = failed[i] / most * height;
    if (n) svg.append(draw("rect", { x: first + i * each, y: height - up, width: each - gap, height: up, fill: "var(--up)" }));
    if (over) svg.append(draw("rect", { x: first + i * each, y: height - up - over, width: each - gap, height: over, fill: "var(--dead)" }));
  });
  const at = high > low ? (median - low) / (high - low) * width : width / 2;
  svg.append(draw("line", { x1: 0, x2: width, y1: height, y2: height, stroke: "var(--faint)" }),
    draw("line", { x1: at, x2: at, y1: 0, y2: height + 4, stroke: "var(--ink)", "stroke-width": 1.5 }),
    draw("text", { x: bars === 1 ? width / 2 : 0, y: height + 15, "text-anchor": bars === 1 ? "middle" : "start" }, figure(low)), bars === 1 ? "" : draw("text", { x: width, y: height + 15, "text-anchor": "end" }, figure(high)));
  svg.setAttribute("preserveAspectRatio", "xMidYMid meet");
  const few = runs < DATA.runs ? `, ${figure(runs)} runs` : "";
  return make("div", { class: "gram" }, make("h3", {}, name.replaceAll("_", " ")), make("p", {}, `median ${figure(median)}, p99 ${figure(p99)}${few}`), svg);
}

function fillMeasures() {
  const swatch = (fill) => { const i = make("i"); i.style.background = `var(${fill})`; return i; };
  byId("measures-key").append(make("span", {}, swatch("--up"), "runs that held"), make("span", {}, swatch("--dead"), "runs that failed"), make("span", {}, "line: the median"));
  byId("measures").append(...DATA.measures.map(histogram));
  for (const note of DATA.notes) byId("notes").append(make("li", {}, note));
}

fillRuns();
fillFailures();
fillMeasures();
document.body.dataset.ready = "yes";
