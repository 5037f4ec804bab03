// One item as a page: an episode turn by turn, a training row with what is learned, or a text.

function callsOf(calls, who) {
  return (calls ?? []).map((call) => h("div", { class: `call ${call.error ? "failed" : ""}` },
    h("div", {}, h("span", { class: "who" }, who), h("span", { class: "name" }, call.name), pairs(call.arguments)),
    "content" in call || call.error ? h("div", {},
      h("span", { class: "who" }, "result ", call.error && badge(call.error, "bad"), call.nothing && badge("nothing found", "warn"),
        call.fault && badge(`fault: ${call.fault}`, "warn"), call.added_seconds > 0 && badge(`+${figure(call.added_seconds)} s`, "warn"),
        call.shown !== undefined && badge(`only ${call.shown.toLocaleString("en")} characters were read`, "warn")),
      text(call.content ?? ""),
      call.detail && fold("traceback, not shown to the policy", () => text(call.detail, "text mono"))) : null));
}

function changesOf(changes) {
  if (!changes?.length) return null;
  const cell = (change, name, kind) => h("td", { class: name in change ? kind : "" }, name in change ? json(change[name]) : "");
  return h("div", {}, h("span", { class: "who" }, `the state changed in ${changes.length} place${changes.length > 1 ? "s" : ""}`),
    h("table", { class: "changes" }, h("tr", {}, h("th", {}, "where"), h("th", {}, "before"), h("th", {}, "after")),
      changes.map((change) => h("tr", {}, h("td", { class: "mono" }, change.path.join(" › ")),
        cell(change, "before", "was"), cell(change, "after", "now")))));
}

// Tokens in colour: by mask where there is one, else by how likely the policy held them.
function tokensOf(tokens, mask, trained = "learned") {
  const nodes = tokens.ids.map((id, place) => {
    const said = tokens.logprobs?.[place];
    const sure = said === undefined ? "p1" : Math.exp(said) > 0.5 ? "p1" : Math.exp(said) > 0.1 ? "p2" : "p3";
    const kind = mask === undefined ? sure : mask[place] === "1" ? trained : "";
    const note = `token ${id}${said === undefined ? "" : `, log-probability ${said}, probability ${figure(Math.exp(said))}`}`;
    return h("span", { class: tokens.texts ? kind : `id ${kind}`, title: note }, tokens.texts ? tokens.texts[place] : `${id} `);
  });
  const most = 4000;
  const node = h("div", { class: "tokens" }, nodes.slice(0, most));
  if (nodes.length > most) {
    node.append(h("button", { class: "more", type: "button", onclick: () => node.replaceChildren(...nodes) }, `show all ${nodes.length} tokens`));
  }
  return node;
}

function turnOf(step, number) {
  const rewards = Object.entries(step.parts ?? {}).map(([name, value]) => badge(`${name} ${figure(value)}`, value > 0 ? "good" : value < 0 ? "bad" : ""));
  const tokens = step.tokens;
  return h("section", { class: "turn", "data-turn": number },
    h("div", { class: "top" }, h("strong", {}, `Turn ${number}`), step.cut && badge("cut at its limit of length", "warn"),
      tokens && badge(`${tokens.ids?.length ?? 0} tokens written`), step.seconds > 0 && badge(`tools ${figure(step.seconds)} s`),
      h("span", { class: "gap" }), rewards, badge(`reward ${figure(step.reward)}`, step.reward > 0 ? "good" : step.reward < 0 ? "bad" : "")),
    h("div", { class: "body" }, say(step.say),
      (step.problems ?? []).map(([kind, message]) => h("div", { class: "problem" }, h("strong", {}, kind), ": ", message)),
      callsOf(step.calls, "call"),
      "answer" in step && h("div", { class: "answer" }, h("span", { class: "who" }, "answer"), text(step.answer)),
      changesOf(step.changes),
      step.user !== undefined && h("div", { class: "user" }, h("span", { class: "who" }, "user"), text(step.user)),
      callsOf(step.user_calls, "the user's call"),
      step.appeared && fold(`${step.appeared.length} tools appeared: ${preview(step.appeared.map((d) => d.function?.name ?? d.name).join(", "))}`, () => json(step.appeared)),
      tokens && fold("tokens that the policy wrote", () => tokensOf(tokens), { kind: "tokens", open: ui.tokens }),
      step.read && fold(`what the policy read next: ${preview(readOf(step))}`, () => text(readOf(step)), { kind: "read" })));
}

function openingOf(record) {
  const chats = (record.opening ?? []).map(whole);
  if (!chats.length) return null;
  const examples = record.examples ? `, with ${record.examples} worked examples` : "";
  return fold(`what the policy read first: ${chats.length} message${chats.length > 1 ? "s" : ""}${examples}`, () =>
    chats.map((chat) => h("div", { class: "message" }, h("span", { class: "who" }, chat.role), text(chat.content),
      callsOf((chat.tool_calls ?? []).map((call) => call.function ?? call), "call"))), { kind: "read" });
}

function figuresOf(item) {
  const names = [...store.columns.keys()];
  return h("table", { class: "figures" }, names.map((name) => h("tr", { title: store.index.rewards[name] },
    h("td", {}, name), h("td", {}, figure(numberOf(name, item))))));
}

function factsOf(record, item) {
  const documents = whole(record.tools) ?? [];
  const tools = documents.map((tool) => tool.function?.name ?? tool.name ?? "?");
  const tokens = record.tokens;
  return h("div", {},
    fold("figures, as conditions know them", () => figuresOf(item), { kind: "figures" }),
    record.task && fold("the task's other columns", () => tree(record.task)),
    tools.length > 0 && fold(`${tools.length} tools: ${preview(tools.join(", "))}`, () => documents.map((tool) => json(tool.function ?? tool))),
    tokens && fold(`tokens: ${tokens.prompt ?? 0} in the prompt, ${tokens.written ?? 0} written by the policy, ${tokens.read ?? 0} read by it${tokens.guided ? "; sampling was guided by a grammar" : ""}`, () => json(tokens)),
    record.state !== undefined && fold("state after the last turn", () => tree(record.state)),
    openingOf(record));
}

// Right is what the run's own reward says, where it is one; else what `accuracy` says.
function verdict(item) {
  return store.index.judge ? (numberOf(store.index.judge, item) >= 1 - 1e-9 ? "good" : "bad") : "";
}

function headOf(record, item, link) {
  const kind = verdict(item);
  return h("div", { class: "head" },
    h("a", { class: "id", href: link, title: "a link to this episode" }, record.id), record.env && badge(record.env), record.format && badge(record.format),
    kind && badge(kind === "good" ? "right" : "wrong", kind, `${store.index.judge} is ${figure(numberOf(store.index.judge, item))}`), record.ended && badge(record.ended, record.ended === "answered" ? "" : "warn"),
    badge(`reward ${figure(record.reward)}`, record.reward > 0 ? "good" : ""), record.split && badge(record.split));
}

function asked(record) {
  return [h("div", { class: "question text" }, text(record.question)),
    h("dl", {}, h("dt", {}, "gold"), h("dd", {}, text((record.gold ?? []).join("  |  "))),
      h("dt", {}, "answer"), h("dd", {}, record.answer === undefined ? "(none)" : text(record.answer)))];
}

function episodeOf(record, item, link, withQuestion = true) {
  return h("div", {}, headOf(record, item, link), withQuestion ? asked(record) : asked(record)[1], factsOf(record, item),
    (record.steps ?? []).map((step, place) => turnOf(step, place + 1)));
}

function sectionOf(section) {
  if (section.ids) {
    const trained = section.mask.split("1").length - 1, rejected = section.name.endsWith("rejected");
    return h("div", {}, h("h2", {}, `${section.name}: ${section.ids.length}, ${trained} of them in the loss`),
      tokensOf(section, section.mask, rejected ? "rejected" : "learned"));
  }
  return h("div", {}, h("h2", {}, section.name), section.messages.map((message) =>
    h("div", { class: `message ${message.mask ?? ""}` },
      h("span", { class: "who" }, message.role, message.mask && badge(message.mask, message.mask === "learned" ? "good" : "bad")),
      say(message.say), callsOf(message.calls, "call"))));
}

function rowOf(record, item, link) {
  const sections = record.sections ?? [];
  const both = sections.filter((section) => ["chosen", "rejected"].includes(section.name));
  const others = sections.filter((section) => !both.includes(section));
  return h("div", {}, h("div", { class: "head" }, h("a", { class: "id", href: link }, record.id)),
    record.facts && Object.keys(record.facts).length > 0 && pairs(record.facts),
    others.filter((section) => !section.ids).map(sectionOf),
    both.length > 0 && h("div", { class: "sides" }, both.map(sectionOf)),
    others.filter((section) => section.ids).map(sectionOf),
    record.text && text(record.text, "text mono"), record.row && fold("the row as it stands in the file", () => tree(record.row)),
    fold("figures", () => figuresOf(item), { kind: "figures" }));
}
