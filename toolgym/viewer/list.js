// The list, the tools over it, keys, and links. A unit is a line of the list: an item, or, where two
// runs are compared, a task with its items of both (`a`: this run, `b`: the earlier one).

const HEIGHT = 60;
const at = (id) => document.getElementById(id);
const view = { units: [], shown: [], current: -1, flip: "", metric: "accuracy", side: "a", chips: new Set(), down: true, token: 0, sample: {} };
const CHIPS = [
  ["problems", "problems>=1"], ["tool errors", "tool_errors>=1"],
  ["truncated", "truncated>=1"], ["cut", "cut>=1"], ["user turns", "user_turns>=1"], ["no call", "calls==0"],
];
const chips = () => (store.index.judge ? [["right", `${store.index.judge}>=1`], ["wrong", `${store.index.judge}<1`]] : []).concat(CHIPS);
const FLIPS = [["changed", "changed"], ["gained", "gained"], ["lost", "lost"], ["right both times", "right"], ["wrong both times", "wrong"]];

function makeUnits() {
  const { ids, tasks, against } = store.index;
  if (!against) { view.units = ids.map((_, item) => ({ a: [item], b: [] })); return; }
  const found = new Map();
  ids.forEach((_, item) => {
    const unit = found.get(tasks[item]) ?? { a: [], b: [] };
    unit[item < against.begin ? "a" : "b"].push(item);
    found.set(tasks[item], unit);
  });
  view.units = [...found.values()];
}

function makeNames() {
  view.names = new Map();
  view.named = new Map();
  view.units.forEach((unit, place) => {
    const name = store.index.against ? taskName(unit) : store.index.ids[first(unit)];
    // What an address gives back: not halves of a character.
    const held = new URLSearchParams({ name }).get("name") === name;
    const own = view.named.has(name) || !held ? `@${place}` : name;
    view.names.set(unit, own);
    view.named.set(own, unit);
  });
}

function mean(name, items) {
  return items.length ? items.reduce((sum, item) => sum + numberOf(name, item), 0) / items.length : NaN;
}

function change(unit) {
  return mean(view.metric, unit.a) - mean(view.metric, unit.b);
}

function flipOf(unit) {
  const by = change(unit);
  if (by !== by) return "";
  return by > 0 ? "gained" : by < 0 ? "lost" : mean(view.metric, unit.a) > 0 ? "right" : "wrong";
}

const first = (unit) => unit.a[0] ?? unit.b[0];
const asides = (unit) => (view.side === "a" ? unit.a : view.side === "b" ? unit.b : [...unit.a, ...unit.b]);

async function apply() {
  const token = ++view.token;
  const typed = condition(at("where").value);
  const wrong = typed?.error;
  at("where").classList.toggle("wrong", Boolean(wrong));
  if (wrong) { tell(wrong, true); return; }
  const tests = [typed, ...[...view.chips].map(condition)].filter(Boolean);
  let kept = view.units.filter((unit) => !tests.length || asides(unit).some((item) => tests.every((test) => test(item))));
  if (view.flip) kept = kept.filter((unit) => { const flip = flipOf(unit); return view.flip === "changed" ? ["gained", "lost"].includes(flip) : flip === view.flip; });
  ui.needles = needles(at("search").value);
  if (ui.needles.length) {
    const among = (hits) => kept.filter((unit) => unit.a.some((item) => hits.has(item)) || unit.b.some((item) => hits.has(item)));
    let drawn = 0;
    const hits = await search(ui.needles, (share, found) => {
      if (token !== view.token) return false;
      if (performance.now() - drawn < 200) return true;
      drawn = performance.now();
      listUnits(among(found)); // what is found so far can be read already
      tell(`searching, ${Math.round(100 * share)} %: ${view.shown.length.toLocaleString("en")} so far`);
      return true;
    });
    if (hits === null || token !== view.token) return;
    kept = among(hits);
  }
  listUnits(kept);
  summary();
  remember();
}

// Puts units into the list, in their order.
function listUnits(kept) {
  view.shown = sorted(kept);
  const place = view.shown.indexOf(view.open);
  view.current = place;
  at("space").style.height = `${view.shown.length * HEIGHT}px`;
  at("list").scrollTop = place > 0 ? Math.max(0, place * HEIGHT - 120) : 0;
  drawRows();
}

function sorted(units) {
  const by = at("sort").value, sign = view.down ? -1 : 1;
  if (by === "") return view.down ? units : [...units].reverse();
  const key = by === "(flips)" ? (unit) => { const c = change(unit); return c !== c ? -1 : Math.abs(c) + (c < 0 ? 0.001 : 0); }
    : by === "(change)" ? change : (unit) => mean(by, asides(unit));
  const keyed = units.map((unit, place) => [key(unit), place, unit]);
  keyed.sort((x, y) => (x[0] === y[0] || (x[0] !== x[0] && y[0] !== y[0]) ? 0 : x[0] !== x[0] ? 1 : y[0] !== y[0] ? -1 : sign * (x[0] - y[0])) || x[1] - y[1]);
  return keyed.map((each) => each[2]);
}

function tell(message, wrong = false) {
  at("status").textContent = plain(message);
  at("status").classList.toggle("wrong", wrong);
}

function summary() {
  const index = store.index, many = (n) => n.toLocaleString("en"), what = index.against ? "tasks" : index.kind;
  const items = view.shown.flatMap((unit) => unit.a);
  const means = [...new Set(["reward", index.judge, "calls"])].filter((name) => store.columns.has(name) && items.length)
    .map((name) => `${name} ${figure(mean(name, items))}`);
  tell(`${many(view.shown.length)} of ${many(view.units.length)} ${what}${means.length ? `; mean ${means.join(", ")}` : ""}`);
}

function drawRows() {
  const list = at("list"), begin = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 8);
  const end = Math.min(view.shown.length, begin + Math.ceil(list.clientHeight / HEIGHT) + 16);
  at("rows").style.transform = `translateY(${begin * HEIGHT}px)`;
  at("rows").replaceChildren(...view.shown.slice(begin, end).map((unit, place) => rowNode(unit, begin + place)));
}

function rowNode(unit, place) {
  const item = first(unit), index = store.index, low = [];
  const count = (name, label, kind) => {
    const number = store.columns.has(name) && unit.a.length ? mean(name, unit.a) : 0;
    if (number > 0) low.push(badge(`${figure(number)} ${label}${number === 1 ? "" : "s"}`, kind));
  };
  let kind = "";
  if (index.against) {
    const flip = flipOf(unit), show = (items) => (items.length ? figure(mean(view.metric, items)) : "–");
    kind = flip;
    low.push(badge(`${show(unit.b)} → ${show(unit.a)}`, flip === "gained" ? "good" : flip === "lost" ? "bad" : ""));
  } else if (index.kind === "episodes") {
    kind = verdict(item) === "good" ? "right" : "wrong";
    count("calls", "call", "");
    low.push(badge(figure(numberOf("reward", item)), numberOf("reward", item) > 0 ? "good" : ""));
  }
  count("problems", "problem", "warn");
  count("tool_errors", "error", "bad");
  count("user_turns", "user turn", "");
  if (store.columns.has("truncated") && unit.a.some((i) => numberOf("truncated", i))) low.push(badge("truncated", "warn"));
  const answer = index.answers[item];
  const name = index.against ? taskName(unit) : index.ids[item];
  return h("a", { class: `row ${kind}`, href: linkTo(unit), "aria-current": place === view.current ? "true" : "false", "data-place": place },
    h("div", { dir: "auto" }, index.titles[index.tasks[item]] || name),
    h("div", { class: "low" }, h("span", { class: "grow", dir: "auto" }, name, answer ? ` · ${preview(answer, 60)}` : ""), low));
}

const taskName = (unit) => store.index.ids[first(unit)].replace(/#\d+$/, "");

// The part of the address after "#": which episode, search, filter and order.
function addressOf(name) {
  const parts = new URLSearchParams();
  if (name) parts.set("e", name);
  for (const id of ["search", "where"]) if (at(id).value) parts.set(id, at(id).value);
  if (at("sort").value !== view.normal) parts.set("sort", at("sort").value);
  if (!view.down) parts.set("up", "1");
  if (view.chips.size) parts.set("only", [...view.chips].join(","));
  if (view.flip) parts.set("flip", view.flip);
  if (view.metric !== "accuracy") parts.set("metric", view.metric);
  if (view.side !== "a") parts.set("side", view.side);
  return `#${parts}`;
}

// What a link calls a unit: its id, or its place where two have one id or an address cannot hold it.
const nameOf = (unit) => view.names.get(unit);
const linkTo = (unit) => addressOf(nameOf(unit));

function remember() {
  history.replaceState(null, "", addressOf(view.open ? nameOf(view.open) : ""));
}

// Shows what the address says; search, filter and order are taken from it where they are others.
async function follow(start = false) {
  const parts = new URLSearchParams(location.hash.slice(1));
  const anew = start || addressOf(parts.get("e") ?? "") !== `#${parts}`;
  if (anew) {
    for (const id of ["search", "where"]) at(id).value = parts.get(id) ?? "";
    at("sort").value = parts.get("sort") ?? view.normal;
    if (at("sort").selectedIndex < 0) at("sort").value = view.normal;
    view.down = !parts.has("up");
    at("order").textContent = view.down ? "↓" : "↑";
    view.flip = parts.get("flip") ?? "";
    view.side = ["b", "ab"].includes(parts.get("side")) ? parts.get("side") : "a";
    view.metric = store.columns.has(parts.get("metric")) ? parts.get("metric") : "accuracy";
    view.chips = new Set((parts.get("only") ?? "").split(",").filter((text) => chips().some((chip) => chip[1] === text)));
    drawChips();
  }
  const name = parts.get("e");
  const unit = name === null ? undefined : view.named.get(name) ?? view.units.find((each) => [...each.a, ...each.b].some((item) => store.index.ids[item] === name || store.index.ids[item].startsWith(`${name}#`)));
  view.open = unit;
  if (anew) await apply();
  if (name !== null && !unit) tell(`this page holds no "${name}"`, true);
  if (unit) await show(unit); else { document.body.classList.remove("reading"); clearDetail(); }
}

function clearDetail() {
  at("detail").className = "empty";
  at("detail").replaceChildren(h("p", {}, store.index.units === 0 ? "Nothing here." : "Choose a line of the list, or press j."));
}

async function show(unit) {
  const index = store.index, token = (view.opening = {});
  const chosen = (side) => unit[side][Math.min(view.sample[side] ?? 0, unit[side].length - 1)];
  const items = index.against ? ["b", "a"].map(chosen) : [first(unit)];
  const records = await Promise.all(items.map((item) => (item === undefined ? null : itemAt(item))));
  if (view.opening !== token) return;
  const back = h("button", { id: "back", type: "button", onclick: close }, "‹ Back");
  const link = linkTo(unit);
  let body;
  if (index.kind === "rows") body = rowOf(records[0], items[0], link);
  else if (!index.against) body = h("div", {}, siblings(items[0]), episodeOf(records[0], items[0], link));
  else {
    const [newer, older] = index.against.names, known = records.find(Boolean);
    const side = (record, item, name, label) => h("div", {}, h("h2", {}, `${name}: ${label}`), samples(unit, label === "before" ? "b" : "a"),
      record ? episodeOf(record, item, link, false) : h("p", {}, "This run has not played the task."));
    body = h("div", {}, asked(known)[0], h("div", { class: "sides" }, side(records[0], items[0], older, "before"), side(records[1], items[1], newer, "after")));
  }
  const detail = at("detail");
  detail.className = "";
  detail.replaceChildren(back, body);
  detail.scrollTop = 0;
  document.body.classList.add("reading");
  view.open = unit;
  view.current = view.shown.indexOf(unit);
  for (const row of at("rows").children) row.setAttribute("aria-current", String(placeOf(row) === view.current));
}

const placeOf = (row) => parseInt(row.dataset.place, 10);

function samples(unit, side) {
  if (unit[side].length < 2) return null;
  return h("div", { class: "samples" }, "samples", unit[side].map((item, place) => h("button", { type: "button", class: `badge ${verdict(item)}`,
    onclick: () => { view.sample[side] = place; show(unit); } }, store.index.ids[item].replace(/^.*#/, "#"))));
}

// Other samples of the same task, as links.
function siblings(item) {
  const { tasks, ids } = store.index;
  const same = [];
  ids.forEach((_, other) => { if (tasks[other] === tasks[item]) same.push(other); });
  if (same.length < 2) return null;
  return h("div", { class: "samples" }, "samples of the task", same.slice(0, 64).map((other) =>
    h("a", { class: `badge ${verdict(other)}`, href: addressOf(nameOf(view.units[other])), "aria-current": other === item ? "true" : "false" }, ids[other].replace(/^.*#/, "#"))));
}

function close() {
  view.open = undefined;
  location.hash = addressOf("");
  document.body.classList.remove("reading");
  drawRows();
}

function step(by) {
  if (!view.shown.length) return;
  const place = Math.max(0, Math.min(view.shown.length - 1, view.current < 0 ? 0 : view.current + by));
  const list = at("list"), top = place * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  view.current = place;
  drawRows();
  location.hash = linkTo(view.shown[place]);
}

function unfold(kind, all) {
  const nodes = [...document.querySelectorAll(`details[data-kind="${kind}"]`)];
  for (const node of nodes) node.open = all ?? !nodes.some((each) => each.open);
}

function toggle(name, kind) {
  ui[name] = !ui[name];
  unfold(kind, ui[name]);
}

const KEYS = [
  ["j", "next", () => step(1)], ["k", "previous", () => step(-1)], ["g", "first", () => step(-1e9)], ["G", "last", () => step(1e9)],
  ["/", "search", () => at("search").focus()], ["f", "filter", () => at("where").focus()], ["s", "sort", () => at("sort").focus()],
  ["r", "reasoning", () => toggle("thinking", "think")], ["o", "what the policy read", () => unfold("read")],
  ["x", "tokens", () => toggle("tokens", "tokens")], ["i", "figures", () => unfold("figures")],
  ["t", "light or dark", () => theme()], ["?", "these keys", () => at("keys").showModal()], ["Escape", "back", () => close()],
];

function theme() {
  const next = { "": "dark", dark: "light", light: "" }[document.documentElement.dataset.theme ?? ""];
  if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  const typing = event.target.matches?.("input, select, textarea");
  if (typing) { if (event.key === "Escape") event.target.blur(); return; }
  const key = { ArrowDown: "j", ArrowUp: "k" }[event.key];
  const found = KEYS.find((each) => each[0] === (key && event.target.id !== "detail" ? key : event.key));
  if (found) { event.preventDefault(); found[2](); }
}

function drawChips() {
  const { against, kind } = store.index;
  const press = (set, value) => () => { set(value); drawChips(); apply(); };
  const chip = (label, on, act) => h("button", { type: "button", "aria-pressed": String(on), onclick: act }, label);
  const nodes = [];
  if (against) {
    const metrics = against.rows.map((row) => row[0]).filter((name) => store.columns.has(name));
    const pick = h("select", { "aria-label": "metric", onchange: (event) => { view.metric = event.target.value; drawChips(); apply(); } },
      ["reward", ...metrics].map((name) => h("option", { value: name, selected: name === view.metric }, name)));
    const counts = new Map();
    for (const unit of view.units) counts.set(flipOf(unit), (counts.get(flipOf(unit)) ?? 0) + 1);
    counts.set("changed", (counts.get("gained") ?? 0) + (counts.get("lost") ?? 0));
    nodes.push(pick, ...FLIPS.map(([label, value]) => chip(`${label} ${counts.get(value) ?? 0}`, view.flip === value,
      press((flip) => { view.flip = view.flip === flip ? "" : flip; }, value))));
    nodes.push(h("select", { "aria-label": "which run a condition looks at", onchange: (event) => { view.side = event.target.value; apply(); } },
      [["a", "filter: after"], ["b", "filter: before"], ["ab", "filter: either"]].map(([value, label]) => h("option", { value, selected: value === view.side }, label))));
  }
  if (kind === "episodes") {
    nodes.push(...chips().filter(([, text]) => store.columns.has(text.split(/[<>=]/)[0])).map(([label, text]) =>
      chip(label, view.chips.has(text), press((value) => { if (!view.chips.delete(value)) view.chips.add(value); }, text))));
  }
  at("chips").replaceChildren(...nodes);
}

function drawCompare() {
  const { against } = store.index;
  if (!against) return;
  const table = h("table", {}, h("tr", {}, against.head.map((cell) => h("th", {}, cell))),
    against.rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))));
  const best = against.rows.find((row) => row[0] === view.metric) ?? against.rows[0];
  const told = `${best[0]} ${best[1]} → ${best[2]}, p ${best[6]}, ${best[7]} tasks`;
  at("compare").append(h("summary", {}, h("strong", {}, told), ` ${against.names[0]} against ${against.names[1]}`),
    h("div", {}, against.lines.join(" · ")), table);
  at("compare").open = innerWidth > 760 && innerHeight > 700;
  at("compare").hidden = false;
}

function drawTools() {
  const { index } = store;
  at("title").textContent = index.title;
  at("about").querySelector(".pop").append(...index.about.map((facts) =>
    h("dl", {}, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))));
  const names = [...store.columns.keys()];
  at("names").append(...names.map((name) => h("option", { value: `${name}>=1` }, index.rewards[name] ?? name)));
  const orders = index.against ? [["(flips)", "flips first"], ["(change)", "change"]] : [];
  orders.push(["", "order of the run"], ...names.map((name) => [name, name]));
  at("sort").append(...orders.map(([value, label]) => h("option", { value }, label)));
  view.normal = orders[0][0];
  at("keys").querySelector("table").append(...KEYS.map(([key, label]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, label))));
  if (index.kind === "rows") at("where").placeholder = "Filter by a number of the rows, such as turn>=1";
}

function later(act, wait) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(act, wait); };
}

async function start() {
  await openStore();
  makeUnits();
  makeNames();
  drawTools();
  drawCompare();
  at("search").addEventListener("input", later(async () => { await apply(); if (view.open) await show(view.open); }, 150));
  at("where").addEventListener("input", later(apply, 120));
  at("sort").addEventListener("change", apply);
  at("order").addEventListener("click", () => { view.down = !view.down; at("order").textContent = view.down ? "↓" : "↑"; apply(); });
  at("theme").addEventListener("click", theme);
  at("help").addEventListener("click", () => at("keys").showModal());
  at("list").addEventListener("scroll", drawRows, { passive: true });
  window.addEventListener("resize", drawRows);
  window.addEventListener("hashchange", () => follow());
  document.addEventListener("keydown", onKey);
  clearDetail();
  await follow(true);
  document.documentElement.dataset.ready = "1";
  warm();
}

// Unpacks for the first search while nobody waits.
async function warm() {
  for (let number = 0; number < store.starts.length && store.size < HAY / 2; number++) {
    await new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve));
    await hayOf(number);
  }
}

start().catch((error) => tell(`This page cannot be shown: ${error.message}. It needs a browser of 2024 or later.`, true));
