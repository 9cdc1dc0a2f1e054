// ---- who sees whom ------------------------------------------------------------------------------------

const cells = [];
const matrix = byId("matrix");
const rowHeads = [], columnHeads = [];

function buildMatrix() {
  const top = make("tr", {}, make("td", { "data-view": "self" }));
  for (const name of DATA.names) {
    const head = make("th", { scope: "col", title: name }, make("div", {}, name));
    columnHeads.push(head);
    top.append(head);
  }
  const body = make("tbody");
  DATA.names.forEach((name, by) => {
    const head = make("th", { scope: "row", title: name }, name);
    rowHeads.push(head);
    const row = make("tr", {}, head);
    DATA.names.forEach((other, of) => {
      const cell = make("td", { "data-by": name, "data-of": other, "data-view": by === of ? "self" : "none" });
      cells.push(cell);
      row.append(cell);
    });
    body.append(row);
  });
  matrix.append(make("thead", {}, top), body);
}

function sizeMatrix() {
  byId("matrix").closest(".moment").classList.toggle("few", count <= 12);
  const room = matrix.parentElement.clientWidth, narrow = room < 480;
  const longest = Math.max(...DATA.names.map((name) => name.length));
  const names = Math.min(narrow ? 74 : 140, longest * 7 + 12);
  const cell = Math.max(5, Math.min(56, Math.floor((room - names - 4) / count) - 1));
  const label = Math.min(13, Math.max(6, cell - 1));
  const dense = longest * label * 0.62 > cell;
  matrix.classList.toggle("dense", dense);
  matrix.classList.toggle("tiny", cell < 9);
  const style = matrix.style;
  style.setProperty("--cell", `${cell}px`);
  style.setProperty("--names", `${names}px`);
  style.setProperty("--label", `${label}px`);
  style.setProperty("--heads", dense ? `${Math.min(140, longest * label * 0.62 + 8)}px` : "20px");
}

const [flowAt = [], flowBy = [], flowTo = [], flowSent = [], flowLost = []] = DATA.flows.cells;
const flowFrom = new Map();
flowAt.forEach((bucket, number) => { if (!flowFrom.has(bucket)) flowFrom.set(bucket, number); });
const flowMost = flowSent.reduce((most, each) => Math.max(most, each), 1);
let dotted = [];

function showMatrix(t) {
  const blind = DATA.views_until !== null && t > DATA.views_until;
  for (let by = 0; by < count; by++) {
    const runs = RUNS.has(turn[by]);
    for (let of = 0; of < count; of++) {
      if (of === by) continue;
      const view = !runs || blind ? "none" : VIEWS[held[by * count + of]];
      const cell = cells[by * count + of];
      if (cell.dataset.view !== view) {
        cell.dataset.view = view;
        cell.title = view === "none" ? "" : `${DATA.names[by]} ${SAYS[view]} ${DATA.names[of]}`;
      }
    }
    for (const head of [rowHeads[by].parentElement, columnHeads[by]]) {
      head.classList.toggle("gone", !runs);
      head.classList.toggle("still", turn[by] === 3);
    }
  }
  for (const cell of dotted) cell.classList.remove("sent", "lost");
  dotted = [];
  const bucket = Math.floor(t / DATA.flows.width);
  for (let i = flowFrom.get(bucket) ?? flowAt.length; i < flowAt.length && flowAt[i] === bucket; i++) {
    if (flowBy[i] === flowTo[i]) continue;
    const cell = cells[flowBy[i] * count + flowTo[i]];
    cell.classList.add("sent");
    cell.classList.toggle("lost", flowLost[i] * 2 > flowSent[i]);
    cell.style.setProperty("--dot", `${Math.round(18 + 42 * Math.sqrt(flowSent[i] / flowMost))}%`);
    dotted.push(cell);
  }
}

const SAYS = { unknown: "does not know", up: "holds up", suspect: "suspects", dead: "holds dead", left: "heard the goodbye of" };

function showNow(t) {
  const { all, dead, up, doubted } = agreement();
  const said = [];
  if (dead) said.push(`${dead} of ${all} views miss somebody who runs`);
  if (doubted) said.push(`${doubted} doubt somebody who runs`);
  if (up) said.push(`${up} hold up somebody who is gone`);
  const whole = all ? `All ${all} views agree with what is true.` : "Nobody sees anybody.";
  byId("agreement").textContent = DATA.views_until !== null && t > DATA.views_until ? "Views are not known any more." : said.length ? `${said.join("; ")}.` : whole;
  let last = after(t);
  const list = [];
  for (let i = last - 1; i >= 0 && list.length < 12; i--) {
    const [at, kind, text] = DATA.happenings[i];
    list.push(make("li", { class: `${kind}${t - at <= FRESH ? " fresh" : ""}` }, make("time", {}, exact(at)), make("span", {}, text)));
  }
  byId("happenings").replaceChildren(...list);
}

/** The place of the first happening after a moment. */
function after(t) {
  let low = 0, high = DATA.happenings.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (DATA.happenings[middle][0] <= t) low = middle + 1;
    else high = middle;
  }
  return low;
}
