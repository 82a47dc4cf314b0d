"use strict";
// The page reads without this script; it adds sorting, highlighting, and the browser of cases.
// Whatever comes from data is put in as text, never as markup.

function el(name, options = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- sorting tables by a column -------------------------------------------------------------------------------------
function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = Number(header.dataset.column);
  const down = header.getAttribute("aria-sort") !== "descending";
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const rows = [...body.rows].map((row, place) => [value(row), place, row]);
  rows.sort(([a, i], [b, j]) => {
    if (typeof a === "string") return (down ? 1 : -1) * a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || i - j; // what is not known goes last
    return (down ? b - a : a - b) || i - j;
  });
  body.append(...rows.map(([, , row]) => row));
}

document.querySelectorAll("table.sortable thead th[data-column]").forEach((header) => {
  const button = el("button", { type: "button", class: "sort", onclick: () => sortBy(header) });
  button.append(...header.childNodes);
  header.append(button);
});

// ---- one editor at a time: pointing at it in a legend or a plot dims the others -------------------------------------
const marked = [...document.querySelectorAll("[data-arm]")];
function highlight(arm) {
  for (const node of marked) node.classList.toggle("dim", arm !== null && node.dataset.arm !== arm);
}
for (const node of document.querySelectorAll(".legend [data-arm], svg .arm[data-arm]")) {
  node.addEventListener("pointerenter", () => highlight(node.dataset.arm));
  node.addEventListener("pointerleave", () => highlight(null));
}

// ---- the browser of cases -------------------------------------------------------------------------------------------
const DATA = JSON.parse(document.getElementById("cases-data").textContent);
const PAGE = 8; // cards that are added at once
const SHOWN = 60; // rows of one list
const passes = (letter) => DATA.reasons[letter][2];
const string = (number) => DATA.strings[number];
const state = { arm: "", cell: "", reason: "", failed: false, text: "", sort: "file" };

function cellName(cell) {
  return DATA.cells[cell][1].replaceAll("_", " ");
}

function longCellName(cell) {
  const [family, name] = DATA.cells[cell];
  return family === "reliability" ? "the edited question" : `${family}, ${name.replaceAll("_", " ")}`;
}

function isHit(item, row, place) {
  const letter = row.letters[place];
  if (letter === ".") return false;
  if (state.cell !== "" && item.probes[place][0] !== Number(state.cell)) return false;
  if (state.failed && passes(letter)) return false;
  return state.reason === "" || (!passes(letter) && DATA.reasons[letter][0] === state.reason);
}

function rowsOf(item) {
  return item.arms.filter((row) => state.arm === "" || row.arm === Number(state.arm));
}

function hits(item) {
  let count = 0;
  for (const row of rowsOf(item)) for (let i = 0; i < item.probes.length; i++) count += isHit(item, row, i);
  return count;
}

function failures(item) {
  let failed = 0;
  let all = 0;
  for (const row of rowsOf(item)) {
    for (const letter of row.letters) {
      if (letter === ".") continue;
      all += 1;
      failed += !passes(letter);
    }
    if (row.error) failed += 1;
  }
  return all ? failed / all : failed;
}

function searched(item) {
  if (item.haystack === undefined) {
    const parts = [item.id, item.question, item.new, item.before, item.model || ""];
    for (const probe of item.probes) parts.push(string(probe[1]), string(probe[2]), string(probe[3]), string(probe[4]));
    for (const row of item.arms) parts.push(row.error || "", ...Object.values(row.said || {}));
    item.haystack = [...new Set(parts)].join("\n").toLowerCase();
  }
  return item.haystack;
}

function face(number, alt, kind) {
  const uri = number >= 0 ? DATA.pictures[number] : "";
  if (uri) return el("img", { class: kind, src: uri, alt, loading: "lazy" });
  const none = number === -1;
  const label = none ? "no picture: a question in words" : "picture not on this page";
  return el("span", { class: `${kind} ${none ? "words" : "absent"}`, role: "img", "aria-label": label, title: label }, none ? "Aa" : "");
}

function change(before, after, known) {
  const says = el("div", { class: "says" });
  if (before && before !== after) says.append(el("s", {}, before), " ");
  if (after) says.append(before === after ? after : el("b", {}, after));
  else says.append(el("i", {}, known));
  return says;
}

function afterwards(item, row, place) {
  const letter = row.letters[place];
  const probe = item.probes[place];
  const said = (row.said || {})[place];
  if (said) return [said, ""];
  if (letter === "n" || letter === "a") return [string(probe[4]) || item.new, "the new answer"];
  if (letter === "l") return [item.new, "the new answer"];
  if ("osb".includes(letter)) return [string(probe[2]), "as before"];
  return ["", DATA.unknown[letter] || "as before"];
}

function why(item, row, place) {
  const share = (row.shares || {})[place];
  const own = (row.gaps || [])[place] || (row.error ? "no entry is there" : "no scope: it acts on every request");
  return DATA.reasons[row.letters[place]][1]
    .replace("{gap}", () => own)
    .replace("{entry}", () => (row.entries || {})[place] || "")
    .replace("{share}", share === undefined ? "" : `; ${share} % of its tokens`);
}

function tracks(row, place) {
  const found = [];
  for (const [, distance, radius] of ((row.gaps || [])[place] || "").matchAll(/([\d.]+) [≤>] ([\d.]+)/g)) {
    const ratio = Number(distance) / Number(radius);
    if (!Number.isFinite(ratio)) continue;
    const at = Math.min(ratio / 2, 1) * 100;
    const inside = Number(distance) <= Number(radius);
    const track = el("div", { class: inside ? "track inside" : "track", "aria-hidden": "true" }, el("i"), el("u", { style: `left:${at.toFixed(1)}%` }));
    found.push(track);
  }
  return found;
}

function probeRow(item, row, place, chosen) {
  const probe = item.probes[place];
  const letter = row.letters[place];
  const good = passes(letter);
  const [after, known] = afterwards(item, row, place);
  const asked = string(probe[1]);
  const what = el("div", { class: "what" }, el("span", { class: "cell" }, longCellName(probe[0])));
  if (asked && asked !== item.question) what.append(asked);
  else what.append(asked ? "the same question" : "(question not in the results file)");
  if (string(probe[3])) what.append(el("small", {}, string(probe[3])));
  const reason = el("div", { class: "why" }, ...tracks(row, place), why(item, row, place));
  const line = el("li", { class: `probe ${good ? "good" : "bad"}${chosen ? " chosen" : ""}` });
  line.append(face(probe[5], asked || cellName(probe[0]), "face"), what, change(string(probe[2]), after, known), reason);
  line.append(el("div", { class: "verdict" }, DATA.reasons[letter][0]));
  return line;
}

function matrix(item, open) {
  const head = el("tr", {}, el("td"));
  for (const row of item.arms) {
    const arm = DATA.arms[row.arm];
    head.append(el("th", { scope: "col" }, el("span", { class: `swatch s${arm.series % 8}${arm.alone ? "" : " hollow"}` }), arm.label));
  }
  const table = el("table", { class: "matrix" }, el("thead", {}, head));
  const body = el("tbody");
  const groups = new Map();
  item.probes.forEach((probe, place) => {
    if (!groups.has(probe[0])) groups.set(probe[0], []);
    groups.get(probe[0]).push(place);
  });
  let family = "reliability";
  for (const [cell, places] of groups) {
    if (DATA.cells[cell][0] !== family) {
      family = DATA.cells[cell][0];
      body.append(el("tr", {}, el("th", { scope: "rowgroup", class: "family", colspan: item.arms.length + 1 }, family)));
    }
    const line = el("tr", {}, el("th", { scope: "row", title: longCellName(cell) }, cellName(cell)));
    for (const row of item.arms) {
      const there = places.filter((place) => row.letters[place] !== ".");
      const good = there.filter((place) => passes(row.letters[place])).length;
      const dots = el("span", { class: "dots", "aria-hidden": "true", style: `--n:${there.length}` });
      for (const place of there) {
        const letter = row.letters[place];
        const kind = passes(letter) ? "good" : "bad";
        const faint = isFiltered() && !(rowsOf(item).includes(row) && isHit(item, row, place)) ? " faint" : "";
        dots.append(el("i", { class: kind + faint, title: `${longCellName(cell)} ${place - places[0] + 1}: ${DATA.reasons[letter][0]}`, onclick: () => open(row, place) }));
      }
      line.append(el("td", {}, dots, el("small", {}, there.length ? `${good}/${there.length}` : "–")));
    }
    body.append(line);
  }
  table.append(body);
  return el("div", { class: "scroll" }, table);
}

function isFiltered() {
  return state.cell !== "" || state.failed || state.reason !== "";
}

function list(item, row, chosen) {
  const places = [];
  for (let place = 0; place < item.probes.length; place++) {
    if (place === chosen || (isFiltered() ? isHit(item, row, place) : row.letters[place] !== ".")) places.push(place);
  }
  const lines = el("ul", { class: "probes" });
  for (const place of places.slice(0, SHOWN)) lines.append(probeRow(item, row, place, place === chosen));
  if (places.length > SHOWN) lines.append(el("li", { class: "more" }, `and ${places.length - SHOWN} more`));
  if (!places.length) lines.append(el("li", { class: "more" }, "No probe of this editor fits the filter."));
  return lines;
}

function card(item) {
  const box = el("article", { class: "case" });
  const below = el("div", { class: "below" });
  let current = null;
  const show = (row, place = -1) => {
    current = row;
    const tabs = el("div", { class: "tabs", role: "group", "aria-label": "editor" });
    for (const other of item.arms) {
      tabs.append(el("button", { type: "button", "aria-pressed": String(other === row), onclick: () => show(other) }, DATA.arms[other.arm].label));
    }
    tabs.append(el("button", { type: "button", class: "close", onclick: () => fold() }, "close"));
    const notes = el("p", { class: "soft notes" }, row.error ? el("b", { class: "error" }, `The edit failed: ${row.error} `) : null, row.edit || "");
    below.replaceChildren(tabs, notes, list(item, row, place));
    const chosen = below.querySelector(".chosen");
    if (chosen) chosen.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  const fold = () => {
    current = null;
    const candidates = rowsOf(item);
    let hint = null;
    for (const row of candidates) {
      const place = [...row.letters].findIndex((letter, i) => letter !== "." && !passes(letter) && isHit(item, row, i));
      if (hint === null && row.error) hint = [row, -1, `the edit failed: ${row.error}`];
      if (hint === null && place >= 0) hint = [row, place, `${longCellName(item.probes[place][0])}: ${why(item, row, place)}`];
    }
    const failed = candidates.some((row) => [...row.letters].some((letter) => letter !== "." && !passes(letter)));
    const words = hint ? el("span", { class: "hint" }, el("b", {}, DATA.arms[hint[0].arm].label), ` — ${hint[2]}`) : el("span", { class: "hint" }, failed ? "" : "Every probe passes.");
    const opened = hint ? hint : [candidates[0] || item.arms[0], -1];
    below.replaceChildren(words, el("button", { type: "button", class: "open", onclick: () => show(opened[0]) }, `all ${item.probes.length} probes`));
  };
  const answer = el("p", { class: "fact" });
  if (item.before) answer.append(el("s", {}, item.before), " → ");
  answer.append(el("b", {}, item.new || "(new answer not in the results file)"));
  const head = el("header", {}, el("p", { class: "asked" }, item.question ? `“${item.question}”` : "(question not in the results file)"), answer, el("p", { class: "id" }, item.id + (item.model ? ` · ${item.model}` : "")));
  const many = item.arms.length > 3; // then the squares need the whole width
  const about = el("div", { class: "about" }, head);
  (many ? box : about).append(matrix(item, show));
  if (many) box.classList.add("many");
  box.prepend(face(item.picture, item.question || item.id, "portrait"), about);
  box.append(below);
  const rows = rowsOf(item);
  if (isFiltered() && rows.length) show(rows.find((row) => [...row.letters].some((_, i) => isHit(item, row, i))) || rows[0]);
  else fold();
  return box;
}

const cards = document.getElementById("cards");
const tally = document.getElementById("tally");
let queue = [];

function more() {
  cards.append(...queue.splice(0, PAGE).map(card));
  document.getElementById("further").hidden = queue.length === 0;
}

function update() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  let found = DATA.cases.filter((item) => rowsOf(item).length && words.every((word) => searched(item).includes(word)));
  const counts = new Map(found.map((item) => [item, hits(item)]));
  if (isFiltered()) found = found.filter((item) => counts.get(item) > 0 || (state.failed && state.cell === "" && state.reason === "" && rowsOf(item).some((row) => row.error)));
  if (state.sort === "worst") found.sort((a, b) => failures(b) - failures(a));
  if (state.sort === "best") found.sort((a, b) => failures(a) - failures(b));
  let probes = 0;
  for (const item of found) probes += counts.get(item);
  tally.textContent = `${found.length} of ${DATA.cases.length} cases, ${probes.toLocaleString("en")} probes${state.failed || state.reason ? " that failed" : ""}`;
  queue = found;
  cards.replaceChildren();
  more();
  const set = Object.entries(state).filter(([name, value]) => value !== "" && value !== false && !(name === "sort" && value === "file"));
  const hash = new URLSearchParams(set).toString();
  if (hash || location.hash.includes("=")) history.replaceState(null, "", `#${hash || "browse"}`);
}

// The filters stand in the address, so that a view can be sent to somebody.
function restore() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (!Object.hasOwn(state, name)) continue;
    const control = document.getElementById(`by-${name}`);
    if (name === "failed") {
      state.failed = control.checked = value === "true";
      continue;
    }
    control.value = value; // a choice that is not there leaves a list empty
    if (control.options && control.selectedIndex < 0) control.selectedIndex = 0;
    state[name] = control.value;
  }
}

// A few of the edits under the title; choosing one finds it among the cases.
function drawStrip(most = 10) {
  const strip = document.getElementById("strip");
  const drawn = DATA.cases.filter((item) => item.before && item.new && item.picture >= 0 && DATA.pictures[item.picture]);
  const count = Math.min(most, drawn.length);
  if (count < 3) return;
  for (let i = 0; i < count; i++) {
    const item = drawn[Math.floor((i * drawn.length) / count)];
    const find = () => {
      Object.assign(state, { arm: "", cell: "", reason: "", failed: false, text: item.id });
      for (const name of ["arm", "cell", "reason", "text"]) document.getElementById(`by-${name}`).value = state[name];
      document.getElementById("by-failed").checked = false;
      update();
      document.getElementById("browse").scrollIntoView();
    };
    const alt = item.question || item.id;
    strip.append(el("button", { type: "button", title: alt, onclick: find }, el("img", { src: DATA.pictures[item.picture], alt }), el("s", {}, item.before), el("b", {}, item.new)));
  }
  strip.hidden = false;
}

function start() {
  const fill = (id, rows) => document.getElementById(id).append(...rows.map(([value, words]) => el("option", { value }, words)));
  fill("by-arm", DATA.arms.map((arm, index) => [index, arm.label]));
  fill("by-cell", DATA.cells.map((_, index) => [index, longCellName(index)]));
  const letters = new Set(DATA.cases.flatMap((item) => item.arms.flatMap((row) => [...new Set(row.letters)])));
  letters.delete(".");
  const reasons = [...new Set([...letters].filter((letter) => !passes(letter)).map((letter) => DATA.reasons[letter][0]))];
  fill("by-reason", reasons.map((words) => [words, words]));
  for (const name of ["arm", "cell", "reason", "sort"]) {
    document.getElementById(`by-${name}`).addEventListener("change", (event) => { state[name] = event.target.value; update(); });
  }
  document.getElementById("by-failed").addEventListener("change", (event) => { state.failed = event.target.checked; update(); });
  let waiting = 0;
  document.getElementById("by-text").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.text = event.target.value; update(); }, 150);
  });
  document.getElementById("filters").hidden = false;
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("further").addEventListener("click", more);
  restore();
  update();
  drawStrip();
}

if (DATA.cases.length) start();
