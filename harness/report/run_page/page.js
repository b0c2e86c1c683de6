"use strict";
// All text comes from the JSON above and is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const BAD = new Set(data.bad);
const PAGE = 200;  // rows of the table of cases that are made at a time
const at = (name) => document.getElementById(name);
let limit = PAGE;

function make(tag, text = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

function row(tag, texts) {
  const node = document.createElement("tr");
  node.append(...texts.map((text) => text instanceof Node ? text : make(tag, text)));
  return node;
}

const badge = (verdict, text = verdict) => make("span", text, `verdict ${verdict}`);

function cellOf(node, className = "") {
  const cell = make("td", "", className);
  cell.append(node);
  return cell;
}

// Heat map: the cases of each pair of values of the two chosen axes.
function drawMap() {
  const [down, across] = [Number(at("rows").value), Number(at("columns").value)];
  const cells = new Map();
  for (const one of data.cases) {
    const key = `${one.at[down]},${one.at[across]}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(one.verdict);
  }
  const columns = data.axes[across].values;
  const rows = data.axes[down].values.map((value, i) => row("td", [
    make("th", value),
    ...columns.map((_, j) => mapCell(cells.get(`${i},${j}`), down, i, across, j)),
  ]));
  const corner = `${data.axes[down].name} \\ ${data.axes[across].name}`;
  at("map").replaceChildren(row("th", [corner, ...columns]), ...rows);
}

function mapCell(verdicts, down, i, across, j) {
  if (!verdicts) return make("td", "", "none");
  const bad = verdicts.filter((verdict) => BAD.has(verdict)).length;
  const good = verdicts.filter((verdict) => verdict === "passed" || verdict === "known").length;
  const cell = make("td", bad ? `${bad} of ${verdicts.length}` : `${verdicts.length}`);
  const share = bad / verdicts.length;
  cell.style.background = bad
    ? `hsl(4 80% ${85 - 35 * share}%)`
    : good === verdicts.length ? "hsl(135 45% 78%)" : "hsl(45 70% 82%)";
  if (share > 0.6) cell.style.color = "#fff";
  const counts = {};
  for (const verdict of verdicts) counts[verdict] = (counts[verdict] || 0) + 1;
  cell.title = Object.entries(counts).map(([verdict, count]) => `${count} ${verdict}`).join(", ");
  cell.onclick = () => {
    at("filter").value = [[down, i], [across, j]]
      .map(([axis, value]) => `${data.axes[axis].name}=${quoted(data.axes[axis].values[value])}`)
      .join(" ");
    limit = PAGE;
    drawCases();
    at("filter").scrollIntoView();
  };
  return cell;
}

const quoted = (text) => /\s/.test(text) || text === "" ? `"${text}"` : text;

// A filter: words of which each must be in the id, verdict or message, or `axis=value`.
function matcher(text) {
  const tests = [];
  for (const [, name, value, long, word] of
    text.matchAll(/([\w]+)=(?:"([^"]*)"|(\S+))|(\S+)/g)) {
    const axis = name === undefined ? -1 : data.axes.findIndex((one) => one.name === name);
    const wanted = value ?? long;
    if (axis >= 0) tests.push((one) => data.axes[axis].values[one.at[axis]] === wanted);
    else {
      const part = (word ?? `${name}=${wanted}`).toLowerCase();
      tests.push((one) => one.text.includes(part));
    }
  }
  return (one) => tests.every((test) => test(one));
}

const ORDERS = {
  failures: (a, b) => BAD.has(b.verdict) - BAD.has(a.verdict),
  slowest: (a, b) => b.seconds - a.seconds,
  run: () => 0,
};

function drawCases() {
  const matching = data.cases.filter(matcher(at("filter").value));
  matching.sort(ORDERS[at("order").value]);
  const rows = matching.slice(0, limit).map((one) => {
    const link = make("a", one.id);
    link.href = `#${one.id}`;
    return row("td", [
      cellOf(badge(one.verdict)), make("td", one.seconds.toFixed(2), "number"),
      cellOf(link, "id"), one.headline,
    ]);
  });
  at("cases").replaceChildren(row("th", ["verdict", "seconds", "case", "message"]), ...rows);
  at("shown").textContent = `${matching.length} of ${data.cases.length} cases`;
  const left = matching.length - rows.length;
  at("more").hidden = left <= 0;
  const next = Math.min(left, 10 * PAGE);
  at("more").textContent = next < left ? `show ${next} of the other ${left}` : `show the other ${left}`;
}

// One case by itself, named by the address after `#`.
function drawCase() {
  const id = decodeURIComponent(location.hash.slice(1));
  const one = data.cases.find((other) => other.id === id);
  at("case").hidden = !one;
  if (!one) return;
  const close = make("a", "close");
  close.href = "#";
  const head = make("h2", `${one.id} `);
  head.append(badge(one.verdict), " ", close);
  const parts = [head];
  for (const [i, past] of one.earlier.entries()) {
    const line = make("p");
    line.append(badge(past[0]), ` attempt ${i + 1}, ${past[1].toFixed(2)} s: ${past[2]}`);
    parts.push(line);
  }
  const phases = Object.entries(one.phases).map(([name, s]) => `${name} ${s.toFixed(2)}`);
  parts.push(make("p", `${one.seconds.toFixed(2)} s${phases.length ? ": " : ""}${phases.join(", ")}`));
  if (one.lines.length) parts.push(make("pre", one.lines.join("\n")));
  for (const picture of one.pictures) {
    const figure = make("figure");
    const image = document.createElement("img");
    [image.src, image.alt] = [picture.data, picture.caption];
    figure.append(image, make("figcaption", picture.caption));
    parts.push(figure);
  }
  at("case").replaceChildren(...parts);
  at("case").scrollIntoView();
}

function drawLists() {
  const total = Object.values(data.phases).reduce((sum, s) => sum + s, 0);
  at("phases").replaceChildren(row("th", ["phase", "seconds", "share"]),
    ...Object.entries(data.phases).map(([name, s]) => row("td", [
      name, make("td", s.toFixed(1), "number"),
      make("td", `${(100 * s / total).toFixed(0)} %`, "number")])));
  at("refused").replaceChildren(...data.refused.map((reason) => {
    const folded = make("details");
    folded.append(make("summary", `${reason.count} ${reason.code}`),
      make("pre", reason.examples.map(([id, text]) => `${id}: ${text}`).join("\n")));
    return folded;
  }));
  at("proofs").replaceChildren(row("th", ["wrong answer", "caught", "missed", "not applicable"]),
    ...data.proofs.map(([name, ...counts]) => row("td", [
      name, ...counts.map((count) => make("td", `${count}`, "number"))])));
  for (const [name, isEmpty] of Object.entries({
    phases: !total, refused: !data.refused.length, proofs: !data.proofs.length,
    map: !data.cases.length,
  })) at(name).closest("section").hidden = isEmpty;
}

function start() {
  at("heading").textContent = data.heading;
  at("summary").textContent = data.summary;
  at("counts").append(...Object.entries(data.counts).filter(([, count]) => count)
    .flatMap(([verdict, count]) => [badge(verdict, `${count} ${verdict}`), " "]));
  for (const one of data.cases) {
    one.text = `${one.id} ${one.verdict} ${one.headline}`.toLowerCase();
  }
  for (const name of ["rows", "columns"]) {
    at(name).append(...data.axes.map((axis, i) => {
      const option = make("option", axis.name);
      option.value = i;
      return option;
    }));
    at(name).onchange = drawMap;
  }
  const quant = data.axes.findIndex((axis) => axis.name === "quant");
  const isSingle = data.axes[0].values.length < 2;  // one member: show another axis beside it
  [at("rows").value, at("columns").value] = [isSingle && quant >= 0 ? quant : 0, 1];
  at("order").onchange = drawCases;
  at("filter").oninput = () => { limit = PAGE; drawCases(); };
  at("more").onclick = () => { limit += 10 * PAGE; drawCases(); };
  window.onhashchange = drawCase;
  drawMap();
  drawCases();
  drawLists();
  drawCase();
}

start();
