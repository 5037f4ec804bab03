"use strict";
// What the page holds: compressed blocks of items, their columns, conditions on them, and search.

const HELD = 20; // unpacked blocks
const HAY = 200e6; // characters of lower-case text that are kept for the next search
const store = { index: null, starts: [], columns: new Map(), open: new Map(), hay: new Map(), size: 0 };

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(id) {
  const packed = new Blob([bytesOf(document.getElementById(id).textContent)]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

async function openStore() {
  const index = (store.index = await unpack("index"));
  let start = 0;
  for (const count of index.blocks) { store.starts.push(start); start += count; }
  for (const [name, column] of Object.entries(index.columns)) {
    store.columns.set(name, Array.isArray(column) ? column.map(parsed) : parsed(column.all));
  }
}

// The number of an item in a column; strings of the index such as "-inf" are numbers here.
function parsed(value) {
  if (typeof value === "number") return value;
  return { inf: Infinity, "-inf": -Infinity }[value] ?? NaN;
}

function numberOf(name, item) {
  const column = store.columns.get(name);
  return Array.isArray(column) ? column[item] : column;
}

function blockOf(item) {
  let low = 0, high = store.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (store.starts[middle] <= item) low = middle; else high = middle - 1;
  }
  return low;
}

// A block's items; the promise is kept, so that two that ask at once unpack it once.
function block(number) {
  const found = store.open.get(number) ?? unpack(`b${number}`);
  store.open.delete(number);
  store.open.set(number, found);
  if (store.open.size > HELD) store.open.delete(store.open.keys().next().value);
  return found;
}

async function itemAt(item) {
  const number = blockOf(item);
  return (await block(number))[item - store.starts[number]];
}

// A value that many items share, where its place stands in the item.
const whole = (value) => (value && typeof value === "object" && "$" in value ? store.index.shared[value.$] : value);

// What the policy read next: the texts around results, and the results themselves.
function readOf(step) {
  return (step.read ?? []).map((part) => (typeof part === "string" ? part : step.calls[part].content)).join("");
}

// Conditions: the language of `toolgym filter --where`, with its tolerance for sums of floats.

const SIGNS = new Map([
  [">=", (a, b) => a >= b - 1e-9],
  ["<=", (a, b) => a <= b + 1e-9],
  ["==", (a, b) => Math.abs(a - b) <= 1e-9],
  [">", (a, b) => a > b + 1e-9],
  ["<", (a, b) => a < b - 1e-9],
]);
const CONDITION =
  /^\s*([A-Za-z_][\p{L}\p{N}_./-]*?)\s*(>=|<=|==|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$/u;
const DECIMAL = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;

// A function of an item, or {error}; null for an empty text.
function condition(text) {
  if (!text.trim()) return null;
  const tests = [];
  for (const part of text.split(/\s+and\s+|,/)) {
    const match = CONDITION.exec(part);
    if (!match || !DECIMAL.test(match[3])) {
      return { error: `"${part.trim()}" cannot be read; write it as accuracy>=1 (signs: >=, >, <=, <, ==; join several with "and")` };
    }
    const [, name, sign, bound] = match;
    if (Object.hasOwn(store.index.missing, name)) {
      return { error: `${name} judges not all of these episodes: ${store.index.missing[name]}` };
    }
    if (!store.columns.has(name)) {
      const near = [...store.columns.keys()].filter((known) => distance(known, name) <= 3 || known.includes(name));
      return { error: `there is no "${name}"${near.length ? `; did you mean ${near.slice(0, 4).join(", ")}?` : `; names: ${[...store.columns.keys()].join(", ")}`}` };
    }
    const limit = parseFloat(bound), holds = SIGNS.get(sign);
    tests.push((item) => holds(numberOf(name, item), limit));
  }
  return (item) => tests.every((test) => test(item));
}

function distance(one, other) {
  let last = Array.from({ length: other.length + 1 }, (_, i) => i);
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    for (let j = 1; j <= other.length; j++) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (one[i - 1] !== other[j - 1]));
    }
    last = row;
  }
  return last[other.length];
}

// Search: all words, or "phrases in quotes", of what was asked, written, called, and given back.

function needles(query) {
  return [...query.matchAll(/"([^"]+)"|(\S+)/g)].map((m) => (m[1] ?? m[2]).toLowerCase());
}

function textsOf(record) {
  const found = [record.id, record.question, ...(record.gold ?? []), record.answer, record.text];
  const calls = (list) => {
    for (const call of list ?? []) {
      found.push(call.name, ...leaves(call.arguments), call.content, call.error, call.detail);
    }
  };
  for (const step of record.steps ?? []) {
    found.push(step.say?.join(""), step.answer, step.user);
    for (const problem of step.problems ?? []) found.push(...problem);
    calls(step.calls);
    calls(step.user_calls);
  }
  for (const section of record.sections ?? []) {
    for (const message of section.messages ?? []) {
      found.push(message.say?.join(""));
      calls(message.calls);
    }
  }
  return found;
}

function leaves(value) {
  if (value === null || typeof value !== "object") return value === undefined ? [] : [String(value)];
  return Object.entries(value).flatMap(([key, inner]) => [Array.isArray(value) ? "" : key, ...leaves(inner)]);
}

// A block's texts in lower case; the promise is kept, as for the blocks themselves.
function hayOf(number) {
  if (!store.hay.has(number)) store.hay.set(number, makeHay(number));
  return store.hay.get(number);
}

async function makeHay(number) {
  const hay = (await block(number)).map((record) => textsOf(record).filter(Boolean).join("\n").toLowerCase());
  const size = hay.reduce((sum, text) => sum + text.length, 0);
  if (store.size + size > HAY) store.hay.delete(number); else store.size += size;
  return hay;
}

// The items in which all needles stand; `told` hears the share that was looked at and what was found
// in it, and may stop the search.
async function search(words, told) {
  const found = new Set(), blocks = store.starts.length;
  const ahead = [];
  for (let number = 0; number < blocks; number++) {
    while (ahead.length < 4 && number + ahead.length < blocks) ahead.push(hayOf(number + ahead.length));
    const hay = await ahead.shift();
    hay.forEach((text, place) => {
      if (words.every((word) => text.includes(word))) found.add(store.starts[number] + place);
    });
    if (!told((number + 1) / blocks, found)) return null;
  }
  return found;
}
