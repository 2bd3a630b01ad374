// Start: the head of the page, buttons, keys, and light or dark.

const app = new App();

function start() {
  const { model, totals, program } = DATA;
  byId("title").textContent = plain(model.name);
  byId("title").title = plain(model.name);
  document.title = plain(model.name) + " - convc report";
  byId("target").textContent = program.target;
  const first = RECORDS[0];
  const chip = (value, text, wide) => h("div", { class: wide ? "chip wide" : "chip" }, h("b", {}, value), h("span", {}, text));
  byId("chips").append(
    chip(first ? change(total(first.ops_before), model.layers.length, String) : model.layers.length, "operators"),
    chip(first ? change(first.macs_before, model.macs, count) : count(model.macs), "multiply-adds"),
    chip(count(model.parameters), "parameters", true),
    chip(bytes(totals.arena), "activations", true),
    ...(PROFILE ? [chip(time(PROFILE.seconds), "on one thread")] : []));

  for (const [kind, text] of [["removed", "gone"], ["added", "new"], ["changed", "changed"]]) {
    byId("legend").append(h("span", {}, h("i", { class: kind }), text));
  }
  const click = (id, action) => byId(id).addEventListener("click", action);
  for (const name of ["graph", "memory", "kernels"]) click("tab-" + name, () => app.setView(name));
  for (const mode of ["before", "both", "after"]) click("show-" + mode, () => show(mode));
  click("previous", () => app.step(-1));
  click("next", () => app.step(1));
  click("expand", () => openAll(true));
  click("collapse", () => openAll(false));
  click("zoom-in", () => zoom(1.25));
  click("zoom-out", () => zoom(0.8));
  click("fit", () => fit(true));
  click("help-button", help);
  click("theme", nextTheme);
  const search = byId("search");
  search.addEventListener("input", () => app.search(search.value));
  search.addEventListener("focus", () => app.search(search.value));
  search.addEventListener("blur", () => { byId("results").hidden = true; });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") app.visit(app.foundAt + (event.shiftKey ? -1 : 1));
    else if (event.key === "ArrowUp") app.visit(app.foundAt - 1);
    else if (event.key === "Escape") {
      search.value = "";
      app.search("");
      search.blur();
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", onKey);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      if (app.view === "memory") memoryView(byId("view-memory"));
    });
  });
  applyTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  app.setView("graph");
  app.refresh(true);
}

function show(mode) {
  app.mode = mode;
  app.refresh(true);
  if (app.currentRewrite()) app.showRewrite();
}

function zoom(factor) {
  const pane = app.panes[0];
  const { width, height } = pane.size();
  pane.zoomAt(factor, width / 2, height / 2);
}

function fit(everything) {
  for (const pane of app.panes) pane.fit(everything);
}

function openAll(open) {
  app.passing = new Set();
  app.open = new Set();
  if (open) for (const graph of GRAPHS) for (const block of graph.blocks) app.open.add(block.key);
  app.redraw();
  fit(false);
}

const KEYS = [
  ["ArrowRight", "\u2192", "next rewrite of the pass", () => app.step(1)],
  ["ArrowLeft", "\u2190", "previous rewrite", () => app.step(-1)],
  ["ArrowDown", "\u2193", "next pass", () => app.go(Math.min(LAST_STOP, app.stop + 1))],
  ["ArrowUp", "\u2191", "previous pass", () => app.go(Math.max(0, app.stop - 1))],
  ["n", "n", "next pass that changed something", () => nextChange(1)],
  ["p", "p", "previous pass that changed something", () => nextChange(-1)],
  ["b", "b", "before, both, after", () => show({ before: "both", both: "after", after: "before" }[app.mode])],
  ["o", "o", "open all blocks", () => openAll(true)],
  ["c", "c", "close all blocks", () => openAll(false)],
  ["+", "+", "zoom in", () => zoom(1.25)],
  ["-", "\u2212", "zoom out", () => zoom(0.8)],
  ["0", "0", "fit everything into the window", () => fit(true)],
  ["/", "/", "search; Enter goes from match to match", () => byId("search").focus()],
  ["1", "1", "passes and graphs", () => app.setView("graph")],
  ["2", "2", "memory", () => app.setView("memory")],
  ["3", "3", "kernels", () => app.setView("kernels")],
  ["t", "t", "light, dark, or as the system has it", () => nextTheme()],
  ["Escape", "Esc", "let go of the node, then of the rewrite", () => letGo()],
  ["?", "?", "these keys", () => help()],
];
const PAN = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog, pre")) return;
  if (event.shiftKey && PAN[event.key] && app.view === "graph") {
    app.panes[0].move(...PAN[event.key]);
    event.preventDefault();
    return;
  }
  const found = KEYS.find(([key]) => key === (event.key === "=" ? "+" : event.key));
  if (!found) return;
  if (event.key.startsWith("Arrow") && app.view !== "graph") return;
  event.preventDefault();
  found[3]();
}

function nextChange(by) {
  for (let stop = app.stop + by; stop >= 0 && stop <= LAST_STOP; stop += by) {
    if (stop === 0 || stop === LAST_STOP || RECORDS[stop - 1].rewrites.length) return app.go(stop);
  }
}

function letGo() {
  if (app.chosen !== null) app.choose(null);
  else if (app.rewrite >= 0) app.go(app.stop);
}

function help() {
  const dialog = byId("help");
  const rows = KEYS.map(([, key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]);
  dialog.replaceChildren(h("h2", {}, "Keys"), h("dl", {}, rows,
    h("dt", {}, h("kbd", {}, "Shift"), " ", h("kbd", {}, "arrows")), h("dd", {}, "move the graph"),
    h("dt", {}, "drag, scroll"), h("dd", {}, "move the graph; with ", h("kbd", {}, "Ctrl"), " zoom")));
  dialog.showModal();
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// Light or dark: what was chosen here before, otherwise what the system says. A page from a file may keep nothing.

function storedTheme(value) {
  try {
    if (value !== undefined) localStorage.setItem("convc-theme", value);
    return localStorage.getItem("convc-theme") || "system";
  } catch {
    return value || "system";
  }
}

let theme = storedTheme();

function applyTheme() {
  const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = { light: "\u2600", dark: "\u263e", system: "\u25d0" }[theme];
  byId("theme").title = { light: "Light", dark: "Dark", system: "As the system" }[theme] + " (t)";
}

function nextTheme() {
  theme = { system: "light", light: "dark", dark: "system" }[theme];
  storedTheme(theme);
  applyTheme();
}

start();
