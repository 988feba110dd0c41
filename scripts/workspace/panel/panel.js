// What the panel looks like and does in a browser. Whatever comes from a notebook is put into the page as text, never
// as HTML. What is decided, reckoned or started is in panel.py.

const FIRST_ROWS = 100; // of a table: a browser takes its time over thousands, and nobody reads them
const CHECK_AFTER_MS = 200;
const ANSWERS_WITHIN_MS = 15_000;

/** An element; `told` are its properties, of which `on` holds listeners, `data` and `aria` what their names say. */
function make(tag, told = {}, ...children) {
  const made = document.createElement(tag);
  const { on = {}, aria = {}, data = {}, ...others } = told;
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  for (const [name, value] of Object.entries(aria)) if (value !== null) made.setAttribute(`aria-${name}`, value);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(others)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const button = (text, act, told = {}) => make("button", { type: "button", on: { click: act }, ...told }, text);

/** A link that the lab opens in a tab of its own, and a new window shows; "" where the page is an editor's, not Jupyter's. */
function opens(path, text, told = {}) {
  const config = document.getElementById("jupyter-config-data");
  if (!config) return "";
  const href = `${JSON.parse(config.textContent).baseUrl}lab/tree/${path.split("/").map(encodeURIComponent).join("/")}`;
  const data = { commandlinkerCommand: "docmanager:open", commandlinkerArgs: JSON.stringify({ path }) };
  return make("a", { href, target: "_blank", rel: "noopener", data, ...told }, text);
}

/** Seconds as people say them. */
function duration(seconds) {
  const all = Math.round(seconds);
  if (all < 60) return `${seconds < 10 && seconds % 1 ? seconds.toFixed(1) : all} s`;
  const [minutes, rest] = [Math.floor(all / 60), all % 60];
  return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** When a run began, by this machine's clock: the time alone where that was today. */
function when(started) {
  const at = new Date(started);
  if (Number.isNaN(at.getTime())) return "";
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

const shortNumber = (value) => String(Number(value.toPrecision(4)));
const count = (many, what) => `${many.toLocaleString()} ${what}${many === 1 ? "" : "s"}`;
const SEVERAL = [" Several values in a field, such as ", "1, 2, 4", " or ", "0:1:5", ", make a sweep: every combination is run."];
const SIGNS = { completed: "✓", failed: "✗", "timed out": "◷", stopped: "■", lost: "?", unreadable: "?", running: "▸" };

class Page {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.runs = new Map(); // by number
    this.selected = new Set(); // numbers
    this.unfolded = new Set(); // the first numbers of entries
    this.sort = { by: "started", down: true };
    this.filter = "";
    this.fold = true;
    this.limit = FIRST_ROWS;
    this.serial = 0;
    this.checks = 0;
    this.waits = null;
    this.sections = {};
    this.id = `panel-${Math.random().toString(36).slice(2)}`;
    this.build();
    this.hear(model.get("first"));
    model.on("msg:custom", (this.listener = (news) => this.hear(news)));
    this.ask({ do: "hello", serial: this.serial });
    this.clock = setInterval(() => this.tick(), 1000);
    this.width = new ResizeObserver(() => this.fit());
    this.width.observe(root);
  }

  leave() {
    clearInterval(this.clock);
    clearTimeout(this.waits);
    this.width.disconnect();
    this.model.off("msg:custom", this.listener);
  }

  /** Put other content into a section; what had the focus has it again. */
  replace(section, ...parts) {
    const kept = this.root.contains(document.activeElement) ? document.activeElement.dataset?.key : null;
    this.sections[section].replaceChildren(...parts);
    if (kept) this.root.querySelector(`[data-key="${CSS.escape(kept)}"]`)?.focus();
  }

  // --- to and from the kernel ---

  ask(wish) {
    this.model.send(wish);
    this.waits ??= setTimeout(() => {
      this.silent = true;
      this.say({
        wrong:
          "The kernel does not answer. If it is busy, this goes on when it is done; if it was restarted, run this " +
          "cell again. Runs under way go on in any case.",
      });
    }, ANSWERS_WITHIN_MS);
  }

  hear(news) {
    clearTimeout(this.waits);
    this.waits = null;
    if (this.silent) this.say({});
    this.silent = false;
    this.heardAt = Date.now();
    this.serial = news.serial ?? this.serial;
    if (news.form) this.showForm(news.form);
    if (news.checked) this.showChecked(news.checked);
    if (news.runs) this.showRuns(news.runs);
    if (news.log !== undefined) this.showLogText(news.log);
    if (news.started !== undefined) {
      this.starting = false;
      this.showStart();
    }
    if (news.said) this.say(news.said);
  }

  tick() {
    const under = this.root.querySelectorAll("[data-started]");
    for (const one of under) {
      one.textContent = duration(Math.max(0, (Date.now() - new Date(one.dataset.started)) / 1000));
    }
    const seen = this.root.isConnected && document.visibilityState === "visible";
    // A kernel that was restarted never says so; while something should be moving, it is asked.
    if (seen && under.length && Date.now() - this.heardAt > 30_000 && !this.waits) {
      this.ask({ do: "hello", serial: this.serial });
    }
  }

  // --- the frame ---

  build() {
    const section = (name, told = {}) => (this.sections[name] = make("div", { className: name, ...told }));
    this.root.classList.add("workspace-panel");
    // In the lab letters are commands: a D typed twice on a button would delete the cell.
    const letters = (event) => !event.ctrlKey && !event.metaKey && event.stopPropagation();
    this.root.addEventListener("keydown", letters);
    this.root.append(
      section("form"),
      section("said", { role: "status", aria: { live: "polite" } }),
      section("under-way"),
      section("toolbar"),
      section("actions"),
      section("table"),
      section("log"),
    );
    this.buildToolbar();
  }

  say({ done, wrong, open, undo, ask, verb, yes }) {
    const close = button("×", () => this.say({}), { className: "plain", aria: { label: "Dismiss" } });
    const text = ask ?? wrong ?? done ?? "";
    const extras = [];
    if (open) extras.push(opens(open, "Open the report", { className: "button primary" }));
    if (undo) extras.push(button("Take back", () => this.ask({ do: "take_back", count: undo })));
    const agree = () => {
      this.say({});
      this.ask(yes);
    };
    if (ask) extras.push(button(verb, agree, { className: "danger" }), button("Keep", () => this.say({})));
    this.sections.said.dataset.kind = ask ? "ask" : wrong ? "wrong" : "done";
    this.sections.said.replaceChildren(...(text ? [make("span", {}, text), ...extras, ask ? "" : close] : []));
    if (ask) extras[1].focus(); // the harmless one
  }

  // --- the form ---

  showForm(form) {
    this.form = form;
    this.values = { ...form.values };
    this.inputs = {};
    this.checked = form.checked;
    if (!form.notebook) {
      this.sections.form.replaceChildren(
        make("p", { className: "hint" }, 'To rerun a notebook from here, name it: panel.show("NAME.ipynb")'),
      );
      return;
    }
    const submit = (event) => {
      event.preventDefault();
      this.start();
    };
    const fields = form.fields.map((field) => this.makeField(field));
    const several = form.fields.some((field) => field.several);
    this.sections.form.replaceChildren(
      make(
        "form",
        { on: { submit }, autocomplete: "off", noValidate: true },
        make("h3", {}, "Rerun ", make("span", { className: "file" }, form.notebook)),
        make(
          "p",
          { className: "hint" },
          form.fields.length
            ? "Each run is made of the notebook as it is saved, and keeps its own copy of it. It goes on when you " +
                "close this page."
            : "It has no parameters: no cell of it is tagged “parameters”. It can be run as it is.",
          ...(several ? SEVERAL.map((part, at) => (at % 2 ? make("code", {}, part) : part)) : []),
        ),
        make("div", { className: "fields" }, ...fields),
        (this.startLine = make("div", { className: "start" })),
      ),
    );
    this.showStart();
    if (this.checked) this.showChecked(this.checked);
    else this.check();
  }

  makeField(field) {
    const id = `${this.id}-${field.name}`;
    const value = this.values[field.name] ?? field.default;
    const set = (text) => {
      this.values[field.name] = text;
      this.showChanged(field);
      this.check();
    };
    const asText = () =>
      make("input", {
        id,
        type: "text",
        value: this.values[field.name] ?? value,
        spellcheck: false,
        aria: { describedby: `${id}-help ${id}-wrong` },
        on: { input: (event) => set(event.target.value) },
      });
    let input;
    if (field.choices.includes(value)) {
      const options = field.choices.map((choice) => make("option", { value: choice }, choice));
      if (field.choices.length > 1) options.push(make("option", { value: "," }, "several …"));
      const chosen = (event) => {
        if (event.target.value !== ",") return set(event.target.value);
        const text = asText();
        text.value = field.choices.join(", ");
        event.target.replaceWith(text);
        this.inputs[field.name] = text;
        text.focus();
        return set(text.value);
      };
      input = make("select", { id, aria: { describedby: `${id}-help ${id}-wrong` }, on: { change: chosen } }, ...options);
      input.value = value;
    } else {
      input = asText();
    }
    this.inputs[field.name] = input;
    const reset = button("", () => this.resetField(field), { className: "plain reset", hidden: true });
    const box = make(
      "div",
      { className: "field", data: { name: field.name } },
      make("label", { htmlFor: id }, field.name),
      input,
      reset,
      make("div", { className: "wrong", id: `${id}-wrong` }),
      make("div", { className: "help", id: `${id}-help`, title: field.help }, field.help || field.type),
    );
    queueMicrotask(() => this.showChanged(field));
    return box;
  }

  resetField(field) {
    delete this.values[field.name];
    const box = this.root.querySelector(`.field[data-name="${CSS.escape(field.name)}"]`);
    box.replaceWith(this.makeField(field));
    this.inputs[field.name].focus();
    this.check();
  }

  showChanged(field) {
    const box = this.inputs[field.name].closest(".field");
    const changed = (this.values[field.name] ?? field.default) !== field.default;
    box.classList.toggle("changed", changed);
    const reset = box.querySelector(".reset");
    reset.hidden = !changed;
    reset.textContent = `↺ ${field.default || "nothing"}`;
    reset.setAttribute("aria-label", `Back to the default of ${field.name}, ${field.default || "nothing"}`);
  }

  check() {
    clearTimeout(this.checkSoon);
    this.checkedFor = null;
    this.showStart();
    this.checkSoon = setTimeout(() => {
      this.checks += 1;
      this.ask({ do: "check", values: this.values, number: this.checks });
    }, CHECK_AFTER_MS);
  }

  showChecked(checked) {
    if (checked.number !== undefined && checked.number !== this.checks) return; // of what was typed before
    this.checked = checked;
    this.checkedFor = JSON.stringify(this.values);
    for (const [name, input] of Object.entries(this.inputs ?? {})) {
      const wrong = checked.wrong[name] ?? "";
      input.setAttribute("aria-invalid", String(Boolean(wrong)));
      input.closest(".field").querySelector(".wrong").textContent = wrong;
    }
    const unknown = Object.entries(checked.wrong).find(([name]) => !(name in (this.inputs ?? {})));
    if (unknown) this.say({ wrong: unknown[1] });
    this.showStart();
    if (this.startsWhenChecked && checked.runs === 1) this.start();
    this.startsWhenChecked = false;
  }

  showStart() {
    if (!this.startLine) return;
    const { wrong = {}, runs = 1, time = "", at_once = 1, varied = [] } = this.checked ?? {};
    const faults = Object.keys(wrong).length;
    const settled = this.checkedFor === JSON.stringify(this.values);
    const kept = document.activeElement === this.go;
    let text = runs > 1 ? `Start ${count(runs, "run")}` : "Run";
    if (this.starting) text = "Starting …";
    this.go = make("button", { type: "submit", className: "primary", disabled: this.starting || faults > 0 }, text);
    let told = "";
    if (faults) told = faults === 1 ? "One value is refused, see above." : `${faults} values are refused, see above.`;
    else if (this.checked && settled) {
      const parts = runs > 1 ? [`every combination of ${varied.join(" and ")}`, at_once > 1 ? `${at_once} at once` : "one at a time", time] : [time];
      told = parts.filter(Boolean).join(" · ");
    }
    this.startLine.replaceChildren(this.go, make("span", { className: "hint", aria: { live: "polite" } }, told));
    if (kept) this.go.focus();
  }

  start() {
    const faults = Object.keys(this.checked?.wrong ?? {}).length;
    if (this.starting || faults) return;
    const settled = this.checkedFor === JSON.stringify(this.values);
    this.startsWhenChecked = !settled;
    if (!settled) return; // nothing is started that was not looked at
    this.starting = true;
    this.showStart();
    this.say({});
    this.ask({ do: "start", values: this.values });
  }

  // --- what is under way ---

  showUnderWay() {
    const { under_way: runs, sweeps } = this.news;
    const inSweeps = (sweep) => runs.filter((run) => run.sweep === sweep.name);
    const alone = runs.filter((run) => !sweeps.some((sweep) => sweep.name === run.sweep));
    const rows = [
      ...sweeps.flatMap((sweep) => [this.sweepRow(sweep), ...inSweeps(sweep).map((run) => this.workRow(run, true))]),
      ...alone.map((run) => this.workRow(run, false)),
    ];
    this.replace("under-way", ...(rows.length ? [make("h3", {}, "Under way"), ...rows] : []));
  }

  sweepRow(sweep) {
    const share = sweep.planned ? (sweep.done + sweep.failed) / sweep.planned : 0;
    const failed = sweep.failed ? `, ${sweep.failed} failed` : "";
    const words = [`${sweep.done} of ${sweep.planned || "?"} done${failed}`, sweep.at_work ? sweep.left : sweep.error || "not finished"];
    const goOn = () => this.ask({ do: "go_on", name: sweep.name });
    const told = { data: { key: `go on ${sweep.name}` }, aria: { label: `Go on with ${sweep.name}` } };
    const actions = sweep.at_work
      ? [this.stopButton(sweep.name, "the sweep")]
      : [sweep.goes_on ? button("Go on", goOn, told) : "", this.discardButton(sweep.name)];
    return this.progressRow("sweep", sweep.name, share, words, actions, sweep.at_work);
  }

  workRow(run, inside) {
    const lost = run.status !== "running";
    const began = make("span", { data: { started: run.started } }, duration(Math.max(0, (Date.now() - new Date(run.started)) / 1000)));
    const words = lost ? ["was killed; this is what is left of it"] : [run.where, run.said, began, run.left];
    const log = button("Log", () => this.followLog(run.name), { data: { key: `log ${run.name}` }, aria: { label: `Log of ${run.name}` } });
    const actions = [log, lost ? this.discardButton(run.name) : inside ? "" : this.stopButton(run.name, "the run")];
    const title = inside ? run.given || run.name : `${run.notebook.replace(/\.ipynb$/, "")}${run.given ? ` · ${run.given}` : ""}`;
    return this.progressRow(inside ? "work inside" : "work", title, run.share, words, actions, !lost, run.name);
  }

  /** A button that asks before it does what cannot be undone by another click on it. */
  asking(verb, what, question, wish) {
    const ask = () => this.say({ ask: question, verb, yes: wish });
    return button(verb === "Stop" ? verb : `${verb} …`, ask, { data: { key: `${wish.do} ${what}` }, aria: { label: `${verb} ${what}` } });
  }

  stopButton(name, what) {
    return this.asking("Stop", `${what} ${name}`, `Stop ${what} ${name}? What there is of it is kept.`, { do: "stop", name });
  }

  discardButton(name) {
    return this.asking("Remove", name, `Remove ${name}, with all that is in it? You can take it back.`, { do: "discard", name });
  }

  progressRow(kind, title, share, words, actions, moves, name = title) {
    const percent = Math.round(100 * share);
    const bar = make(
      "div",
      { className: `bar${moves ? " moves" : ""}`, role: "progressbar", aria: { label: `Progress of ${name}`, valuenow: percent, valuemin: 0, valuemax: 100 } },
      make("div", { style: `width: ${percent}%` }),
    );
    const told = words.filter(Boolean).flatMap((word, at) => (at ? [" · ", word] : [word]));
    return make(
      "div",
      { className: kind, data: { run: name } },
      make("div", { className: "title", title: name }, title),
      make("div", { className: "buttons" }, ...actions.filter(Boolean)),
      bar,
      make("div", { className: "words" }, ...told),
    );
  }

  // --- the runs that have ended ---

  showRuns(news) {
    this.news = news;
    for (const [number, run] of Object.entries(news.changed)) this.runs.set(Number(number), run);
    const there = new Set(news.entries.flatMap((entry) => entry.runs));
    for (const number of [...this.runs.keys()]) {
      if (!there.has(number)) {
        this.runs.delete(number);
        this.selected.delete(number);
      }
    }
    this.showUnderWay();
    this.showTable();
    this.showMetrics();
  }

  buildToolbar() {
    const typed = (event) => {
      this.filter = event.target.value.trim().toLowerCase();
      this.limit = FIRST_ROWS;
      this.showTable();
    };
    this.metricChoice = make("select", {
      aria: { label: "Rank by" },
      on: { change: (event) => this.ask({ do: "metric", metric: event.target.value }) },
    });
    const folded = (event) => {
      this.fold = event.target.checked;
      this.showTable();
    };
    this.total = make("h3", {}, "Runs");
    this.sections.toolbar.append(
      this.total,
      make("input", { type: "search", placeholder: "Filter: width 8, failed …", aria: { label: "Filter the runs" }, on: { input: typed } }),
      make("label", {}, "by ", this.metricChoice),
      make("label", { title: "Their mean, and its spread: the luckiest seed wins nothing" }, make("input", { type: "checkbox", checked: true, on: { change: folded } }), " seeds in one row"),
    );
  }

  showMetrics() {
    const { metrics, metric } = this.news;
    const shown = [...this.metricChoice.options].map((option) => option.value).join();
    if (shown !== metrics.join()) {
      this.metricChoice.replaceChildren(...metrics.map((name) => make("option", { value: name }, name)));
    }
    this.metricChoice.value = metric;
  }

  single(number) {
    const value = this.news.values[number];
    return { runs: [number], value: value ?? null, shown: value === undefined ? "" : shortNumber(value) };
  }

  /** The rows to show: an entry each, with the runs in it, filtered and in order. */
  rows() {
    const { entries } = this.news;
    const all = this.fold ? entries.map((entry) => (entry.runs.length > 1 ? entry : this.single(entry.runs[0]))) : entries.flatMap((entry) => entry.runs.map((number) => this.single(number)));
    const words = this.filter.split(/\s+/).filter(Boolean);
    const told = (row) =>
      row.runs
        .map((number) => this.runs.get(number))
        .map((run) => [run.run, run.status, run.notebook, run.error, ...Object.entries(run.parameters).map((pair) => pair.join(" "))].join(" "))
        .join(" ")
        .toLowerCase();
    const found = words.length ? all.filter((row) => words.every((word) => told(row).includes(word))) : all;
    const sorted = found.map((row) => [this.sortKey(row), row]);
    const { down } = this.sort;
    sorted.sort(([one], [other]) => compare(one, other, down));
    return sorted.map(([, row]) => row);
  }

  sortKey(row) {
    const { by } = this.sort;
    const runs = row.runs.map((number) => this.runs.get(number));
    if (by === "value") return row.value;
    if (by === "started") return runs.map((run) => run.started).sort().at(-1);
    if (by === "seconds") return runs[0].seconds;
    if (by === "status") return worst(runs);
    return runs[0].parameters[by.slice(2)] ?? null;
  }

  showTable() {
    if (!this.news) return;
    const rows = this.rows();
    const total = this.runs.size;
    const shownRuns = rows.reduce((sum, row) => sum + row.runs.length, 0);
    this.total.textContent = shownRuns === total ? count(total, "run") : `${shownRuns.toLocaleString()} of ${count(total, "run")}`;
    this.sections.toolbar.hidden = total === 0;
    this.varied = this.variedOf(rows);
    const table = make("table", {}, make("thead", {}, this.headRow(rows)), make("tbody", {}, ...rows.slice(0, this.limit).flatMap((row) => this.tableRows(row))));
    const parts = total ? [make("div", { className: "scroll" }, table)] : [make("p", { className: "hint" }, `No run has ended yet. They will be kept in ${this.news.folder}.`)];
    if (total && !rows.length) parts.push(make("p", { className: "hint" }, "No run fits the filter."));
    if (rows.length > this.limit) {
      const more = () => {
        this.limit += 10 * FIRST_ROWS;
        this.showTable();
      };
      parts.push(button(`Show more: ${(rows.length - this.limit).toLocaleString()} rows are left`, more, { className: "plain", data: { key: "more" } }));
    }
    if (this.news.removed && !this.sections.said.childElementCount) {
      parts.push(make("p", { className: "hint removed" }, `${this.news.removed.toLocaleString()} removed. `, button("Take back the latest", () => this.ask({ do: "take_back", count: 1 }), { className: "plain" })));
    }
    this.replace("table", ...parts);
    this.fit();
    this.showActions();
  }

  /** Where the columns do not fit side by side, a row takes several lines. */
  fit() {
    const box = this.sections.table.querySelector(".scroll");
    box?.classList.remove("narrow");
    box?.classList.toggle("narrow", box.scrollWidth > box.clientWidth);
  }

  /** The parameters in which the runs shown differ; the seed last, and only where seeds have rows. */
  variedOf(rows) {
    const values = new Map();
    for (const row of rows) {
      for (const number of row.runs) {
        for (const [name, value] of Object.entries(this.runs.get(number).parameters)) {
          if (!values.has(name)) values.set(name, new Set());
          values.get(name).add(value);
        }
      }
    }
    const differ = [...values].filter(([, found]) => found.size > 1).map(([name]) => name);
    const seed = this.fold ? [] : differ.filter((name) => name === "seed");
    return [...differ.filter((name) => name !== "seed"), ...seed].slice(0, 8);
  }

  headRow(rows) {
    const { metric } = this.news;
    const all = rows.flatMap((row) => row.runs);
    const chosen = all.filter((number) => this.selected.has(number)).length;
    const choose = (event) => this.select(all, event.target.checked);
    const box = make("input", { type: "checkbox", checked: all.length > 0 && chosen === all.length, indeterminate: chosen > 0 && chosen < all.length, aria: { label: "Select all runs shown" }, data: { key: "all" }, on: { change: choose } });
    const head = (by, text, number = false) => {
      const { by: sorted, down } = this.sort;
      const turn = () => {
        this.sort = { by, down: by === sorted ? !down : by === "started" || (by === "value" && this.news.mode === "max") };
        this.showTable();
      };
      const sign = by === sorted ? (down ? " ↓" : " ↑") : "";
      return make("th", { scope: "col", className: number ? "number" : "", aria: { sort: by === sorted ? (down ? "descending" : "ascending") : null } }, button(`${text}${sign}`, turn, { className: "plain", data: { key: `sort ${by}` } }));
    };
    return make("tr", {}, make("th", { scope: "col" }, box), head("status", "status"), head("value", metric, true), ...this.varied.map((name) => head(`p ${name}`, name, this.isNumber(name))), head("started", "started"), head("seconds", "time", true), make("th", { scope: "col" }, "run"));
  }

  isNumber(name) {
    return [...this.runs.values()].slice(0, 20).every((run) => !(name in run.parameters) || typeof run.parameters[name] === "number");
  }

  tableRows(row) {
    if (row.runs.length === 1) return [this.tableRow(row, "")];
    const inside = this.unfolded.has(row.runs[0]) ? row.runs : [];
    return [this.tableRow(row, "folded"), ...inside.map((number) => this.tableRow(this.single(number), "inside"))];
  }

  tableRow(row, kind) {
    const runs = row.runs.map((number) => this.runs.get(number));
    const [first] = runs;
    const chosen = row.runs.every((number) => this.selected.has(number));
    const status = worst(runs);
    const box = make("input", { type: "checkbox", checked: chosen, aria: { label: `Select ${first.run}` }, data: { key: `box ${kind} ${row.runs[0]}` }, on: { change: (event) => this.select(row.runs, event.target.checked) } });
    const same = (name) => (runs.every((run) => run.parameters[name] === first.parameters[name]) ? String(first.parameters[name] ?? "") : runs.map((run) => run.parameters[name]).join(", "));
    const latest = runs.map((run) => run.started).sort().at(-1);
    const seconds = runs.map((run) => run.seconds).filter((value) => value !== null);
    const mean = seconds.length ? seconds.reduce((sum, value) => sum + value, 0) / seconds.length : null;
    const caveat = runs.find((run) => run.caveat)?.caveat;
    const told = caveat || runs.find((run) => run.error && run.status !== "stopped")?.error;
    let name = (first.open && opens(first.open, first.run, { title: `Open the executed notebook of ${first.run}` })) || first.run;
    if (kind === "folded") {
      const turn = () => {
        if (!this.unfolded.delete(row.runs[0])) this.unfolded.add(row.runs[0]);
        this.showTable();
      };
      const open = this.unfolded.has(row.runs[0]);
      name = button(`${open ? "▾" : "▸"} ${count(runs.length, "run")}`, turn, { className: "plain", aria: { expanded: open }, data: { key: `fold ${row.runs[0]}` } });
    }
    const click = (event) => {
      if (!event.target.closest("a, button, input") && !String(getSelection())) this.select(row.runs, !chosen);
    };
    const cell = (text, className, data = {}) => make("td", { className, data, title: text.length > 24 ? text : "" }, text);
    return make(
      "tr",
      { className: [kind, chosen ? "selected" : ""].join(" "), data: { status }, on: { click } },
      make("td", {}, box),
      make("td", { className: "status" }, make("span", { className: "sign", aria: { hidden: "true" } }, SIGNS[status] ?? "?"), make("span", { className: "word" }, ` ${status}`)),
      make("td", { className: "number value" }, ...this.valueText(row), told ? make("div", { className: "error", title: told }, told) : ""),
      ...this.varied.map((name) => cell(same(name), `parameter ${this.isNumber(name) ? "number" : ""}`, { name })),
      cell(when(latest), "quiet"),
      cell(mean === null ? "" : duration(mean), "number quiet"),
      make("td", { className: "run" }, name),
    );
  }

  /** The mean, and in quieter letters what its seeds say of it. */
  valueText(row) {
    const [mean, ...spread] = row.shown.split(/(?= ±| of )/);
    return [make("span", {}, mean), make("span", { className: "spread" }, spread.join(""))];
  }

  select(numbers, on) {
    for (const number of numbers) this.selected[on ? "add" : "delete"](number);
    this.showTable();
  }

  showActions() {
    const chosen = [...this.selected];
    if (!chosen.length) {
      this.sections.actions.replaceChildren();
      return;
    }
    const [first] = chosen.map((number) => this.runs.get(number));
    const single = chosen.length === 1;
    const what = single ? first.run : count(chosen.length, "run");
    const compareThem = () => {
      this.say({ done: "Comparing …" });
      this.ask({ do: "compare", numbers: chosen });
    };
    this.replace(
      "actions",
      make("b", {}, `${chosen.length.toLocaleString()} selected`),
      button("Compare", compareThem, { data: { key: "compare" }, className: single ? "" : "primary" }),
      single && first.open ? opens(first.open, "Open the notebook", { className: "button" }) : "",
      single ? button("Log", () => this.followLog(first.run), { data: { key: "log" } }) : "",
      single ? button("Same values in the form", () => this.ask({ do: "reuse", number: chosen[0] }), { data: { key: "reuse" } }) : "",
      this.asking("Remove", what, `Remove ${what}? You can take it back.`, { do: "remove", numbers: chosen }),
      button("Select none", () => this.select(chosen, false), { className: "plain", data: { key: "none" } }),
    );
  }

  // --- a log ---

  followLog(run) {
    this.logOf = run;
    this.logText = make("pre", { tabIndex: 0, aria: { label: `Log of ${run}` } });
    const close = () => {
      this.logOf = null;
      this.sections.log.replaceChildren();
      this.ask({ do: "log", run: null });
    };
    const shut = button("×", close, { className: "plain", aria: { label: "Close the log" } });
    this.sections.log.replaceChildren(make("div", { className: "title" }, make("h3", {}, "Log"), make("span", { className: "quiet" }, run), shut), this.logText);
    this.sections.log.onkeydown = (event) => event.key === "Escape" && close();
    this.ask({ do: "log", run });
    this.logText.focus();
  }

  showLogText(text) {
    if (!this.logOf) return;
    const { logText: box } = this;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    box.textContent = text || "It has printed nothing.";
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
}

/** The status that needs attention most. */
const worst = (runs) => runs.find((run) => run.status !== "completed")?.status ?? "completed";

/** In order; what is missing comes last, whichever way round. */
function compare(one, other, down) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  const numbers = typeof one === "number" && typeof other === "number";
  const order = numbers ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true });
  return down ? -order : order;
}

export default {
  render({ model, el }) {
    const page = new Page(model, el);
    return () => page.leave();
  },
};
