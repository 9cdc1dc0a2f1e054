// ---- head ---------------------------------------------------------------------------------------------

function fillHead() {
  byId("runs").textContent = DATA.runs === "nodes" ? "of whole nodes" : "of membership";
  byId("name").textContent = DATA.scenario;
  byId("about").textContent = DATA.about;
  const verdict = byId("verdict");
  const good = DATA.code === 0;
  verdict.classList.add(good ? "good" : "bad");
  const broken = DATA.failed.length ? `${DATA.failed.join(", ")} did not hold` : DATA.code === 130 ? "The run was stopped" : "The run crashed";
  const held_ = DATA.properties.filter((each) => each.checks && !each.violations.length).length;
  verdict.append(
    make("strong", {}, good ? "Held" : broken),
    make("span", {}, good ? `${held_} properties were put to the test` : ""),
    make("span", {}, `exit code ${DATA.code}: ${DATA.meaning}`),
  );
  const facts = byId("facts");
  fact(facts, "Seed", String(DATA.seed));
  fact(facts, DATA.runs === "nodes" ? "Nodes" : "Members", figure(DATA.members));
  fact(facts, "Simulated time", span(DATA.end));
  fact(facts, "Faults", figure(DATA.faults_total));
  fact(facts, "Trace", `${figure(DATA.lines)} lines`);
  const same = DATA.same === null ? "" : DATA.same ? " (as it was)" : " (another than it was)";
  fact(facts, "Digest of the trace", DATA.digest + same, "digest");
  byId("replay").textContent = DATA.replay;
  copier(byId("copy"), byId("replay"));
}

// ---- tables -------------------------------------------------------------------------------------------

const FEW = 3;

function moment(at) {
  const button = make("button", { type: "button" }, span(at));
  button.addEventListener("click", (event) => { event.stopPropagation(); show(at); });
  return button;
}

function heads(...names) {
  return make("thead", {}, make("tr", {}, ...names.map(([name, kind]) => make("th", { scope: "col", class: kind }, name))));
}

function fillFaults() {
  const table = byId("faults");
  if (!DATA.faults.length) {
    table.replaceWith(make("p", { class: "empty" }, "No fault is planned."));
    return;
  }
  const body = make("tbody");
  DATA.faults.forEach((fault, number) => {
    const to = fault.to === null ? "" : moment(Math.min(fault.to, DATA.end));
    const row = make("tr", { class: `click${fault.happened ? "" : " missed"}`, "data-fault": number },
      make("td", {}, fault.kind), make("td", {}, fault.who), make("td", {}, fault.happened ? fault.how : `${fault.how} (did not happen)`),
      make("td", { class: "number" }, moment(Math.min(fault.from, DATA.end))), make("td", { class: "number" }, to));
    row.addEventListener("click", () => show(Math.min(fault.from, DATA.end)));
    body.append(row);
  });
  table.append(heads(["Kind"], ["Who"], ["How"], ["From", "number"], ["To", "number"]), body);
  listeners.push((t) => {
    DATA.faults.forEach((fault, number) => {
      body.rows[number].classList.toggle("current", fault.happened && fault.from <= t && t < (fault.to ?? fault.from + 1));
    });
  });
}

function fillProperties() {
  const body = make("tbody");
  for (const { name, checks, violations } of DATA.properties) {
    const kind = violations.length ? "broke" : checks ? "held" : "idle held";
    const said = violations.length ? `broken ${figure(violations.length)} ×` : checks ? "held" : "not put to the test";
    body.append(make("tr", {}, make("td", {}, make("code", {}, ...breakable(name))), make("td", { class: "number" }, figure(checks)), make("td", {}, make("span", { class: kind }, said))));
    violations.forEach(([at, text], i) => {
      body.append(make("tr", { class: "why", hidden: i >= FEW ? "" : null }, make("td", {}, text), make("td", { class: "number" }, moment(at)), make("td")));
    });
    if (violations.length > FEW) {
      const rest = [...body.rows].slice(-violations.length + FEW);
      const more = make("button", { type: "button" }, `and ${violations.length - FEW} more`);
      const row = make("tr", { class: "why" }, make("td", { colspan: 3 }, more));
      more.addEventListener("click", () => { rest.forEach((each) => { each.hidden = false; }); row.remove(); });
      body.append(row);
    }
  }
  byId("properties").append(heads(["Property"], ["Checked", "number"], ["Outcome"]), body);
  if (DATA.crash) byId("crash").append(make("pre", {}, DATA.crash));
}

function fillNumbers() {
  const pairs = (list, rows) => rows.forEach(([name, value, kind]) => {
    list.append(make("dt", { class: kind }, name), make("dd", { class: kind }, typeof value === "number" ? figure(value) : value));
  });
  pairs(byId("measures"), DATA.measures.map(([name, value]) => [name.replaceAll("_", " "), value]));
  if (!DATA.measures.length) byId("measures").append(make("dt", { class: "empty" }, "Nothing."));
  const met = [...DATA.sometimes.map(([name, n]) => [name.replaceAll("_", " "), n]), ...DATA.unmet.map((name) => [name.replaceAll("_", " "), "never", "never"])];
  pairs(byId("met"), met);
  if (!met.length) byId("met-section").remove();
  const keys = "Keys: ← and → move the moment, Page Up and Page Down ten times as far; space plays; n and p go to the next and the previous happening. A click on a chart, a fault or a time goes there.";
  const leapt = DATA.leaps.length ? ["Stretches that were leapt over, in which nothing but upkeep would have happened, are drawn as gaps."] : [];
  for (const note of [keys, ...leapt, ...DATA.notes]) byId("notes").append(make("li", {}, note));
}

function fillKeys() {
  const swatch = (fill) => { const i = make("i"); i.style.background = `var(${fill})`; return i; };
  const rows = byId("rows-key");
  const strip = make("i");
  strip.style.background = "var(--dead)";
  strip.style.height = "4px";
  const tick = make("i");
  tick.style.background = "var(--left)";
  tick.style.width = "3px";
  rows.append(...[["--up", "runs"], ["--starting", "starts or leaves"], ["--paused", "stands still"]].map(([fill, word]) => make("span", {}, swatch(fill), word)),
    make("span", {}, make("i", { class: "dead" }, "×"), "crashed"), make("span", {}, tick, "has left"), make("span", {}, strip, "thin line: others suspect it, hold it dead, heard its goodbye, or (grey) do not know it"));
  if (count < DATA.total) {
    for (const id of ["rows-key", "views-key"]) byId(id).append(make("span", { class: "some" }, `${count} of ${figure(DATA.total)} members`));
  }
  const key = [["up", "", "up"], ["suspect", "?", "suspect"], ["dead", "×", "dead"], ["left", "–", "left"], ["unknown", "", "unknown"]];
  byId("views-key").append(make("span", {}, "Rows look at columns."), ...key.map(([kind, sign, word]) => make("span", {}, make("i", { class: kind }, sign), word)),
    make("span", {}, make("i", { class: "dot" }), `${DATA.flows.of} from row to column within ${span(DATA.flows.width)}`), ...(flowLost.some(Boolean) ? [make("span", {}, make("i", { class: "dot ring" }), "most of them lost")] : []));
}

// ---- the play head ------------------------------------------------------------------------------------

const slider = byId("slider"), play = byId("play");

function show(t) {
  now = Math.max(0, Math.min(DATA.end, Math.round(t)));
  seek(now);
  const at = span(now), shownAt = Math.round(toShown(now));
  if (Number(slider.value) !== shownAt) slider.value = shownAt;
  slider.setAttribute("aria-valuetext", at);
  byId("clock").textContent = exact(now);
  for (const each of document.querySelectorAll("[data-clock]")) each.textContent = `at ${byId("clock").textContent}`;
  byId("head-line").style.transform = `translateX(${x(now)}px)`;
  document.body.dataset.now = now;
  showMatrix(now);
  showNow(now);
  for (const [element, value] of readouts) element.textContent = value(now);
  for (const listener of listeners) listener(now);
}

function step(by) {
  show(fromShown(Math.max(0, Math.min(LENGTH, toShown(now) + by))));
}

function toHappening(direction) {
  const list = DATA.happenings;
  if (direction > 0) {
    const next = after(now);
    show(next < list.length ? list[next][0] : DATA.end);
    return;
  }
  let i = after(now) - 1;
  while (i >= 0 && list[i][0] >= now) i--;
  show(i >= 0 ? list[i][0] : 0);
}

let playing = null;

function setPlaying(on) {
  play.setAttribute("aria-pressed", on);
  play.firstElementChild.textContent = on ? "❚❚" : "▶";
  playing = on ? {} : null;
  if (!on) return;
  if (now >= DATA.end) show(0);
  let before = null, at = toShown(now);
  const mine = playing;
  const tick = (time) => {
    if (playing !== mine) return;
    at += before === null ? 0 : (time - before) / 1000 * LENGTH / PLAY_S;
    before = time;
    show(fromShown(Math.min(LENGTH, at)));
    if (at >= LENGTH) setPlaying(false);
    else requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

function listen() {
  const small = round(LENGTH / 400);
  const keys = {
    ArrowRight: () => step(small), ArrowUp: () => step(small), ArrowLeft: () => step(-small), ArrowDown: () => step(-small),
    PageUp: () => step(small * 10), PageDown: () => step(-small * 10), Home: () => show(0), End: () => show(DATA.end),
  };
  slider.max = Math.round(LENGTH);
  slider.addEventListener("input", () => { setPlaying(false); show(fromShown(Number(slider.value))); });
  slider.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    setPlaying(false);
    keys[event.key]();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("button, input, a") || event.ctrlKey || event.metaKey || event.altKey) return;
    const extra = { " ": () => setPlaying(playing === null), n: () => toHappening(1), p: () => toHappening(-1), ArrowRight: keys.ArrowRight, ArrowLeft: keys.ArrowLeft };
    if (!extra[event.key]) return;
    event.preventDefault();
    extra[event.key]();
  });
  play.addEventListener("click", () => setPlaying(playing === null));
  byId("earlier").addEventListener("click", () => { setPlaying(false); toHappening(-1); });
  byId("later").addEventListener("click", () => { setPlaying(false); toHappening(1); });
  const scrub = (event) => {
    const at = event.clientX - tracks.getBoundingClientRect().left - axis.left;
    if (at < -4) return;
    setPlaying(false);
    show(fromShown(Math.max(0, Math.min(1, at / axis.width)) * LENGTH));
  };
  tracks.addEventListener("click", scrub);
  tracks.addEventListener("pointermove", (event) => { if (event.buttons === 1 && event.pointerType === "mouse") scrub(event); });
  let width = 0;
  new ResizeObserver(() => {
    if (tracks.clientWidth === width) return;
    width = tracks.clientWidth;
    layTracks();
    sizeMatrix();
    show(now);
  }).observe(tracks);
}

fillHead();
fillKeys();
buildMatrix();
fillFaults();
fillProperties();
fillNumbers();
layTracks();
sizeMatrix();
listen();
show(telling());
document.body.dataset.ready = "yes";
