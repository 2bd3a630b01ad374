// The right side: a node with its past and future, a pass with its rewrites and refusals, or the whole network.

const RECORDS = DATA.passes;
const FINAL = GRAPHS[DATA.at[DATA.at.length - 1]];
const PROFILE = DATA.profile;
const FIRST_ROWS = 200;

const STEPS_OF = new Map();
DATA.step_nodes.forEach((name, index) => {
  if (!STEPS_OF.has(name)) STEPS_OF.set(name, []);
  STEPS_OF.get(name).push(index);
});

const section = (title, ...content) => (content.flat().filter(Boolean).length ? [h("h3", {}, title), ...content.flat()] : []);
const facts = (pairs, left) => h("dl", { class: left ? "facts left" : "facts" }, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
const link = (text, action, title) => h("button", { type: "button", class: "link mono", title, on: { click: action } }, text);

/** Rows of which the first are shown, and the others when asked for. */
function rows(items, make) {
  const list = h("div", {}, items.slice(0, FIRST_ROWS).map(make));
  if (items.length > FIRST_ROWS) {
    const more = h("button", { type: "button", class: "link", on: { click: () => more.replaceWith(...items.slice(FIRST_ROWS).map((item, at) => make(item, at + FIRST_ROWS))) } },
      `show ${items.length - FIRST_ROWS} more`);
    list.append(more);
  }
  return list;
}

/** The rewrites that led to a node, those that followed, and the nodes of the last graph that do its work. */
function historyOf(node) {
  const [before, after, names] = DATA.histories[node.id] || [[], [], [node.name]];
  const rewrites = (places) => places.map(([index, at]) => ({ index, at, rewrite: RECORDS[index].rewrites[at] }));
  const shown = (name) => FINAL.home.has((FINAL.named.get(name) || { id: -1 }).id);
  return { before: rewrites(before), after: rewrites(after), names: names.filter(shown) };
}

function historyRow({ index, at, rewrite }) {
  return h("button", { type: "button", class: "row", on: { click: () => app.go(index + 1, at) } },
    h("strong", {}, `${RECORDS[index].index}. ${RECORDS[index].name}`),
    h("span", { class: "rule" }, rewrite.rule, rewrite.note ? ": " + rewrite.note : ` at %${rewrite.node}`),
    certificate(rewrite));
}

const figure = (value) => (value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(2) : value.toLocaleString("en", { maximumSignificantDigits: 4 }));

function certificate(rewrite) {
  const figures = Object.entries(rewrite.certificate);
  if (!figures.length) return null;
  return facts(figures.map(([name, value]) => [name.replaceAll("_", " "), value === null ? "not finite" : figure(value)]));
}

function showNode(node, graph, mark) {
  const producers = node.inputs.map((name, at) => [name, slotName(node.op, at)]).filter(([name]) => name !== null);
  const users = graph.users.get(node.name) || [];
  const { before, after, names } = historyOf(node);
  const lives = names.length ? names : bySource(node);
  const certified = before.filter(({ rewrite }) => Object.keys(rewrite.certificate).length && rewrite.added.includes(node.name));
  const refusals = RECORDS.flatMap((record, index) => record.refusals.filter((r) => r.node === node.name).map((refusal) => ({ record, index, refusal })));
  const attrs = Object.entries(node.attrs);
  return [
    h("h2", {}, node.op, mark ? [" ", h("span", { class: "tag count-" + mark }, mark)] : []),
    h("div", { class: "mono" }, "%" + node.name),
    h("p", { class: "note mono" }, node.type),
    facts([
      ...(node.shape.length ? [["at nominal sizes", node.shape.join(" \u00d7 ")]] : []),
      ...(node.macs ? [["multiply-adds", count(node.macs)]] : []),
    ]),
    ...section("Attributes", attrs.length ? facts(attrs.map(([name, value]) => [name, h("span", { class: "mono" }, value)])) : []),
    ...section("Reads", producers.length ? facts(producers.map(([name, slot]) => [slot, reference(graph, name)]), true) : []),
    ...section("Feeds", users.length ? facts(users.map((user) => [user.op, link("%" + user.name, () => app.choose(user.name))]), true) : []),
    ...section("Came from", node.source.length ? h("div", { class: "source-chips" }, node.source.map((name) => link(name, () => app.seek(name, 0), "show it in the network as read"))) : []),
    ...section("History", before.length ? h("div", { class: "history" }, before.map(historyRow)) : h("p", { class: "note" }, "As it was read: no rewrite has made or changed it.")),
    ...section("Then", after.length ? h("div", { class: "history" }, after.map(historyRow)) : []),
    ...section("Certificate", ...certified.map(({ rewrite }) => certificate(rewrite))),
    ...section("Refused here", refusals.length ? refusals.map(({ record, index, refusal }) =>
      h("button", { type: "button", class: "row", on: { click: () => app.go(index + 1, -1, node.name) } },
        h("strong", {}, `${record.index}. ${record.name}`), h("span", { class: "rule" }, refusal.rule + ": "), refusal.reason)) : []),
    ...showKernels(node, lives),
  ];
}

const slotName = (op, at) => {
  const slots = DATA.slots[op] || [];
  const slot = slots.length ? slots[Math.min(at, slots.length - 1)] : "";
  return slot.endsWith("*") ? `${slot.slice(0, -1)}[${at - slots.length + 1}]` : slot.replace("?", "");
};

function reference(graph, name) {
  const node = graph.named.get(name);
  if (!node || node.op === "constant") {
    return [h("span", { class: "mono" }, "%" + name), " ", h("span", { class: "faint" }, node ? node.attrs.value || node.type : "")];
  }
  return link("%" + name, () => app.choose(name));
}

/** Nodes of the last graph that share a source with this one. */
function bySource(node) {
  const sources = new Set(node.source);
  return FINAL.nodes.filter((one) => one.source.some((name) => sources.has(name))).map((one) => one.name).slice(0, 4);
}

function showKernels(node, names) {
  if (node.op === "input" || node.op === "output" || !DATA.program.steps.length) return [];
  const steps = names.flatMap((name) => STEPS_OF.get(name) || []);
  if (!steps.length) return section("Runs as", h("p", { class: "note" }, names.length ? "Nothing: no step of the program does work for it." : "Nothing: it is gone."));
  const elsewhere = names.length && !names.includes(node.name) ? h("p", { class: "note" }, "Done by ", names.map((name) => link("%" + name, () => app.seek(name, RECORDS.length + 1))), ".") : [];
  return section(steps.length === 1 ? "Runs as" : `Runs as ${steps.length} steps`, elsewhere, ...steps.map(showStep));
}

function showStep(index) {
  const step = DATA.program.steps[index];
  const timed = PROFILE ? PROFILE.steps[index] : null;
  const code = h("details", {}, h("summary", {}, "Emitted source"));
  code.addEventListener("toggle", () => { if (code.open && code.children.length === 1) code.append(source(DATA.sources[step.kernel] || "")); });
  return h("div", {},
    link(step.kernel, () => app.showKernel(step.kernel), "show it among the kernels"),
    facts([
      ["step", `${index + 1} of ${DATA.program.steps.length}`],
      ...(timed ? [["time", `${time(timed.seconds)}, ${percent(timed.share)} of all`], ...(timed.macs ? [["rate", timed.gflops.toFixed(1) + " GFLOP/s"]] : [])] : []),
    ]),
    timed && timed.macs ? meter(timed.limit_share, `${percent(timed.limit_share)} of the machine's limit`, "limit") : null,
    code);
}

function meter(share, text, kind) {
  return h("div", { class: "meter-row" },
    s("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: "track", width: 100, height: 8, rx: 2 }),
      s("rect", { class: "fill " + (kind || ""), width: Math.min(100, Math.max(0, share * 100)), height: 8, rx: 2 })),
    h("span", { class: "faint" }, text));
}

function showPass(index, current) {
  const record = RECORDS[index];
  const options = Object.entries(record.options);
  const names = [...new Set([...Object.keys(record.ops_before), ...Object.keys(record.ops_after)])].sort();
  const differ = names.filter((name) => record.ops_before[name] !== record.ops_after[name]);
  return [
    h("h2", {}, record.name),
    h("p", { class: "note" }, h("span", { class: "tag " + record.numerics }, record.numerics), " ", DATA.docs[record.name] || ""),
    facts([
      ["time", time(record.seconds)],
      ["operators", change(total(record.ops_before), total(record.ops_after), String)],
      ["multiply-adds", change(record.macs_before, record.macs_after, count)],
      ...options.map(([name, value]) => [name, JSON.stringify(value)]),
    ]),
    ...section("Operators", differ.length ? facts(differ.map((name) => [name, `${record.ops_before[name] || 0} \u2192 ${record.ops_after[name] || 0}`])) : []),
    ...section(plural(record.rewrites.length, "rewrite"), record.rewrites.length ? rows(record.rewrites, (rewrite, at) =>
      h("button", { type: "button", class: "row", "data-rewrite": at, "aria-current": at === current ? "true" : null, on: { click: () => app.go(index + 1, at) } },
        h("span", { class: "mono" }, "%" + rewrite.node), h("span", { class: "rule" }, rewrite.note || rewrite.rule), certificate(rewrite))) : h("p", { class: "note" }, "It changed nothing.")),
    ...section(plural(record.refusals.length, "refusal"), record.refusals.length ? rows(record.refusals, (refusal) =>
      h("button", { type: "button", class: "row", on: { click: () => app.choose(refusal.node) } },
        h("span", { class: "mono" }, "%" + refusal.node), h("span", { class: "rule" }, refusal.rule), refusal.reason)) : []),
  ];
}

function showModel(runs) {
  const { model, totals, program } = DATA;
  const sizes = Object.entries(model.sizes).map(([name, size]) => `${name}=${size}`).join(", ");
  const ports = (found) => Object.entries(found).map(([name, type]) => [name, h("span", { class: "mono" }, type)]);
  const head = [
    h("h2", {}, model.name),
    h("p", { class: "note" }, runs ? "What runs: the graph after the last pass, and the steps that do its work." : "The network as it was read. Choose a pass on the left; step through its rewrites with the arrow keys."),
    ...section("Inputs", facts(ports(model.inputs))),
    ...section("Outputs", facts(ports(model.outputs))),
  ];
  if (!runs) {
    const first = RECORDS[0];
    return [...head, ...section("Totals", facts([
      ...(sizes ? [["nominal sizes", sizes]] : []),
      ...(first ? [["operators", total(first.ops_before)], ["multiply-adds", count(first.macs_before)]] : []),
    ])), ...section("Operators", first ? facts(Object.entries(first.ops_before).sort((a, b) => b[1] - a[1])) : [])];
  }
  return [...head,
    ...section("Totals", facts([
      ...(sizes ? [["nominal sizes", sizes]] : []),
      ["target", program.target],
      ["operators", model.layers.length],
      ["steps", program.steps.length],
      ["kernels", DATA.kernels.length],
      ["parameters", count(model.parameters)],
      ["multiply-adds", count(model.macs)],
      ["weights", bytes(totals.weights)],
      ["activations", bytes(totals.arena)],
      ...(PROFILE ? [["time on one thread", time(PROFILE.seconds)]] : []),
    ])),
    ...section("Slowest nodes", PROFILE ? slowest() : h("p", { class: "note" }, "No times were measured."))];
}

function slowest() {
  const found = [...STEPS_OF].filter(([name]) => name).map(([name, steps]) => [name, steps.reduce((sum, at) => sum + PROFILE.steps[at].seconds, 0)]);
  return found.sort((a, b) => b[1] - a[1]).slice(0, 12).map(([name, seconds]) => h("div", {},
    link("%" + name, () => app.choose(name)), meter(seconds / PROFILE.total, `${time(seconds)} \u00b7 ${percent(seconds / PROFILE.total)}`)));
}
