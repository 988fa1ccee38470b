"use strict";
// The explorer's views. Every label is put into the page as text, never as markup.
document.documentElement.classList.add("scripted");

(() => {
  const FIRST = 15; // rows drawn up and down before more are asked for
  const MORE = 100; // rows of the table before more are asked for
  const MATCHES = 8; // of each kind, in the search
  const NONE = "\u2013", MINUS = "\u2212";
  const TABLE_KEYS = ["find", "known", "line", "measured"];

  const byId = (id) => document.getElementById(id);
  // Such a frame has no address of its own, and the browser refuses it downloads.
  const confined =
    window.origin === "null" && (location.protocol !== "file:" || window.self !== window.top);

  let facts, rows, sides, state = {}, written = "";

  // ---- elements and numbers

  function el(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(given)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value != null) made.setAttribute(key, value);
    }
    made.append(...children.flat().filter((child) => child != null));
    return made;
  }

  const bdi = (text) => el("bdi", {}, text);
  const known = (value) => value != null && !Number.isNaN(value);
  const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

  function number(value, places = 3, plus = false) {
    if (!known(value)) return NONE;
    const text = Math.abs(value).toFixed(places);
    const sign = Number(text) === 0 ? "" : value < 0 ? MINUS : plus ? "+" : "";
    return sign + text;
  }

  const signed = (value) => number(value, 3, true);
  const small = (value) => (known(value) ? value.toPrecision(2).replace("-", MINUS) : NONE);

  // ---- what the page brings along

  const unpacked = new Map();
  const TYPES = { int8: Int8Array, int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

  function unpack(name) {
    if (!unpacked.has(name)) unpacked.set(name, inflate(byId(`data-${name}`)));
    return unpacked.get(name);
  }

  async function inflate(node) {
    const text = atob(node.textContent);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const Type = TYPES[node.dataset.type];
    node.remove();
    return new Type(await new Response(stream).arrayBuffer());
  }

  async function openSides() {
    const open = async (name, count) => {
      const parts = ["index", "change", "beside", "fdr"].map((part) => unpack(`${name}-${part}`));
      const [index, change, beside, fdr] = await Promise.all(parts);
      return { index, change, beside, fdr, kept: count ? index.length / count : 0 };
    };
    sides ??= Promise.all([open("genes", rows.length), open("perturbations", facts.genes.length)]);
    const [genes, perturbations] = await sides;
    return { genes, perturbations };
  }

  /** Read the kept pair at a place of a side; `other` is the gene or the perturbation there. */
  function read(side, at) {
    const { step, log, missing, least } = facts.units;
    const width = facts.lines.length;
    const beside = Array.from({ length: width }, (_, line) => {
      const units = side.beside[at * width + line];
      return units === missing ? null : units * step;
    });
    const units = side.fdr[at];
    const power = units * log;
    const fdr = units === missing ? null : power <= least ? 0 : 10 ** power;
    return { other: side.index[at], change: side.change[at], beside, fdr, rounded: false };
  }

  const keptOf = (side, row) =>
    Array.from({ length: side.kept }, (_, place) => read(side, row * side.kept + place));

  /** Return all pairs of a perturbation, or of a gene: kept ones as they are, the others rounded. */
  async function everyPair(kind, row) {
    const both = await openSides();
    const [own, cross] =
      kind === "knockdown" ? [both.genes, both.perturbations] : [both.perturbations, both.genes];
    const found = new Map(keptOf(own, row).map((pair) => [pair.other, pair]));
    for (let at = 0; at < cross.index.length; at++) {
      const other = Math.floor(at / cross.kept);
      if (cross.index[at] === row && !found.has(other)) found.set(other, { ...read(cross, at), other });
    }
    const [matrix, steps] = await Promise.all([unpack("matrix"), unpack("steps")]);
    const width = facts.genes.length;
    const rounded = (other) => {
      const [p, g] = kind === "knockdown" ? [row, other] : [other, row];
      const change = matrix[p * width + g] * steps[p];
      return { other, change, beside: facts.lines.map(() => null), fdr: null, rounded: true };
    };
    const count = kind === "knockdown" ? width : rows.length;
    return Array.from({ length: count }, (_, other) => found.get(other) ?? rounded(other));
  }

  // ---- views and their links: #MYC, #gene=ACTB, #MYC&gene=ACTB, and the table's &sort=…

  function parse(hash) {
    const decode = (text) => {
      try {
        return decodeURIComponent(text);
      } catch {
        return text; // a % that stands for itself
      }
    };
    const found = {};
    for (const part of hash.replace(/^#/, "").split("&").filter(Boolean)) {
      const [key, ...rest] = part.split("=");
      if (rest.length) found[decode(key)] = decode(rest.join("="));
      else found.knockdown = decode(key);
    }
    if (found.knockdown && !found.gene && !place("knockdown", found.knockdown) && place("gene", found.knockdown))
      return { ...found, gene: found.knockdown, knockdown: undefined };
    return found;
  }

  function link(view) {
    const { knockdown, ...others } = view;
    const parts = Object.entries(others)
      .filter(([, value]) => value)
      .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`);
    return "#" + [...(knockdown ? [encodeURIComponent(knockdown)] : []), ...parts].join("&");
  }

  const tableState = () =>
    Object.fromEntries(Object.entries(state).filter(([key]) => ["sort", "order", ...TABLE_KEYS].includes(key)));

  const TITLE = "h2";

  /** Go to a view and note it in the address, where there is one to note it in. */
  function go(view, { replace = false, focus = TITLE } = {}) {
    written = link(view);
    try {
      if (replace) history.replaceState(null, "", written);
      else location.hash = written;
    } catch {
      // A confined frame may keep no history: the view opens all the same.
    }
    show(view, focus);
  }

  const open = (view) => go({ ...view, ...tableState() });
  const anchor = (view, name, given = {}) =>
    el("a", { href: link(view), ...given }, bdi(name));

  // ---- finding names

  let places;
  function place(kind, name) {
    const found = places[kind].get(name) ?? places[`${kind}Folded`].get(String(name).toUpperCase());
    return found === undefined ? null : { at: found, name: kind === "gene" ? facts.genes[found] : rows[found].perturbation };
  }

  function index() {
    const labels = rows.map((row) => row.perturbation);
    const plain = (names) => new Map(names.map((name, at) => [name, at]));
    const folded = (names) => plain(names.map((name) => name.toUpperCase()));
    places = { knockdown: plain(labels), gene: plain(facts.genes), knockdownFolded: folded(labels), geneFolded: folded(facts.genes) };
  }

  function matches(names, typed) {
    const wanted = typed.toUpperCase(), first = [], then = [];
    for (const name of names) {
      const at = name.toUpperCase().indexOf(wanted);
      if (at === 0) first.push(name);
      else if (at > 0) then.push(name);
    }
    first.sort((a, b) => a.length - b.length);
    return [...first, ...then].slice(0, MATCHES);
  }

  function search() {
    const input = byId("search"), list = byId("found"), said = byId("said");
    let options = [], active = 0;

    function close() {
      list.hidden = true;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    }

    function mark(at) {
      active = (at + options.length) % options.length;
      [...list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === active)));
      input.setAttribute("aria-activedescendant", `found-${active}`);
      list.children[active].scrollIntoView({ block: "nearest" });
    }

    function choose(at) {
      const { view, name } = options[at];
      input.value = name;
      close();
      open(view);
    }

    function look() {
      const typed = input.value.trim();
      said.textContent = "";
      const labels = typed ? matches(rows.map((row) => row.perturbation), typed) : [];
      const genes = typed ? matches(facts.genes, typed) : [];
      options = [
        ...labels.map((name) => ({ name, view: { knockdown: name }, what: "what its knock-down does" })),
        ...genes.map((name) => ({ name, view: { gene: name }, what: "what moves it" })),
      ];
      list.replaceChildren(
        ...options.map(({ name, what }, at) =>
          el("li", { role: "option", id: `found-${at}`, onmousedown: (event) => { event.preventDefault(); choose(at); } },
            bdi(name), el("small", {}, what))),
      );
      if (!options.length) {
        close();
        if (typed) said.replaceChildren("Neither a perturbation nor a gene is called ", bdi(typed), ".");
        return;
      }
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
      mark(0);
    }

    input.addEventListener("input", look);
    input.addEventListener("focus", () => input.select());
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (move) {
        event.preventDefault();
        if (list.hidden) look();
        else mark(active + move);
      } else if (event.key === "Enter") {
        event.preventDefault();
        if (list.hidden) look();
        if (options.length) choose(active);
      } else if (event.key === "Escape") close();
    });
  }

  // ---- csv

  /** A cell: quoted where needed, and never a formula to a spreadsheet. */
  function cell(value) {
    if (!known(value)) return "";
    if (typeof value !== "string") return String(value);
    const numeric = value.trim() !== "" && Number.isFinite(Number(value));
    const text = /^[=+\-@\t\r]/.test(value) && !numeric ? `'${value}` : value;
    return /[",\n\r]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  const csv = (header, lines) =>
    [header, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";

  const fileName = (name) => `${name.replace(/[^A-Za-z0-9.+-]+/g, "_").replace(/^[.+-]+/, "_").slice(0, 60)}.csv`;

  /** Buttons that hand over tables; each is `{what, name, make}`, and `make` gives the csv. */
  function handOver(tables) {
    const box = el("div", { hidden: true });
    const asText = async (table) => {
      const text = await table.make();
      const area = el("textarea", { readonly: true, rows: 8, "aria-label": `${table.what} as csv, to copy`, spellcheck: "false" });
      area.value = text;
      box.hidden = false;
      box.replaceChildren(el("p", { class: "note" }, `${plural(text.split("\n").length - 2, "row")} of csv, selected: copy with Ctrl+C or \u2318C.`), area);
      area.focus();
      area.select();
    };
    const download = async (table) => {
      const address = URL.createObjectURL(new Blob([await table.make()], { type: "text/csv" }));
      el("a", { href: address, download: fileName(table.name) }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    };
    const button = (text, act, label) => el("button", { type: "button", onclick: act, "aria-label": label }, text);
    const buttons = tables.flatMap((table) => confined
      ? [button(`Show ${table.what} as csv to copy`, () => asText(table))]
      : [button(`Download ${table.what} (csv)`, () => download(table)),
        button("as text", () => asText(table), `Show ${table.what} as text`)]);
    return [el("div", { class: "buttons" }, buttons), box];
  }

  const pairHeader = () => [
    "perturbation", "gene", "control_mean", "predicted_change", "rounded",
    ...facts.lines.map((line) => `measured_change_${line}`),
    ...(facts.tested ? [`fdr_${facts.testLine}`] : []),
  ];

  const exact = (value, places) => (known(value) ? Number(value.toPrecision(places)) : null);

  function pairLine(kind, row, pair) {
    const [p, g] = kind === "knockdown" ? [row, pair.other] : [pair.other, row];
    return [
      rows[p].perturbation, facts.genes[g], facts.control[g], exact(pair.change, 6), pair.rounded ? "yes" : "no",
      ...pair.beside.map((value) => exact(value, 4)), ...(facts.tested ? [exact(pair.fdr, 2)] : []),
    ];
  }

  // ---- bars

  const markOf = (line) =>
    facts.testMeasured && line === facts.lines.length - 1 ? "mark test" : `mark m${line % 6}`;

  function legend() {
    const lines = facts.lines.map((line, at) =>
      el("li", {}, el("span", { class: markOf(at) }), el("span", {}, "measured in ", bdi(line))));
    return el("ul", { class: "legend" }, el("li", {}, el("span", { class: "swatch" }), "predicted"), lines);
  }

  const nice = (span) => {
    const power = 10 ** Math.floor(Math.log10(span / 3));
    return [1, 2, 5, 10].map((by) => by * power).find((step) => span / step <= 4.5);
  };

  const valuesOf = (pairs) => [0, ...pairs.flatMap((pair) => [pair.change, ...pair.beside.filter(known)])];

  /** Where a value stands on a track, in per cent; both panels have the same length a unit. */
  function axisOf(pairs, span, fromHigh) {
    const values = valuesOf(pairs);
    const low = fromHigh ? Math.max(...values) - span : Math.min(...values);
    const pad = 0.03 * span;
    return { low, span, at: (value) => (100 * (value - low + pad)) / (span + 2 * pad) };
  }

  function reach(pairs) {
    const values = valuesOf(pairs);
    return Math.max(...values) - Math.min(...values);
  }

  function standing(made, left, width) {
    made.style.left = `${left}%`;
    if (width !== undefined) made.style.width = `${width}%`;
    return made;
  }

  function ticks(axis) {
    const step = nice(axis.span), places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const first = Math.ceil(axis.low / step - 1e-9);
    return Array.from({ length: 7 }, (_, n) => (first + n) * step)
      .filter((value) => value <= axis.low + axis.span + 1e-9)
      .map((value) => ({ value, text: number(value, places) }));
  }

  function effectRow(pair, axis, naming) {
    const within = (value) => known(value) && axis.at(value) >= 0 && axis.at(value) <= 100;
    const [from, to] = [0, pair.change].map((value) => Math.min(100, Math.max(0, axis.at(value)))).sort((a, b) => a - b);
    const cut = within(pair.change) ? "" : pair.change < 0 ? " cut left" : " cut right";
    const track = el("span", { class: "track", "aria-hidden": "true" },
      ticks(axis).map(({ value }) => standing(el("span", { class: Math.abs(value) < 1e-12 ? "zero" : "rule" }), axis.at(value))),
      standing(el("span", { class: `bar${cut}` }), from, to - from),
      pair.beside.map((value, line) => (within(value) ? standing(el("span", { class: markOf(line) }), axis.at(value)) : null)));
    const said = pair.beside.map((value, line) => `${facts.lines[line]} ${signed(value)}`).join(", ");
    const { view, name, own } = naming(pair);
    return el("li", { title: `${name}: predicted ${signed(pair.change)}${said ? `; measured: ${said}` : ""}` },
      anchor(view, name, { class: own ? "name own" : "name" }), track, el("span", { class: "value" }, signed(pair.change)));
  }

  /** The pairs that set the scale: a perturbed gene's own change would dwarf all others. */
  function scaling(pairs, naming) {
    const others = pairs.filter((pair) => !naming(pair).own);
    return others.length ? others : pairs;
  }

  function panel(title, pairs, span, fromHigh, naming) {
    if (!pairs.length) return el("div", {}, el("h3", {}, title), el("p", { class: "note" }, "None."));
    const axis = axisOf(scaling(pairs, naming), span, fromHigh);
    const scale = el("span", { class: "track" }, ticks(axis).map(({ value, text }) => standing(el("span", { class: "tick" }, text), axis.at(value))));
    return el("div", {}, el("h3", {}, title),
      el("ol", { class: "effects" }, pairs.map((pair) => effectRow(pair, axis, naming))),
      el("div", { class: "axis", "aria-hidden": "true" }, el("span"), scale, el("span")));
  }

  function numbersTable(pairs, what, naming) {
    const head = [what, "predicted change", ...facts.lines.map((line) => `measured in ${line}`), ...(facts.tested ? [`FDR in ${facts.testLine}`] : [])];
    const line = (pair) => el("tr", {},
      el("th", { scope: "row" }, anchor(naming(pair).view, naming(pair).name)),
      el("td", { class: "model" }, signed(pair.change)),
      pair.beside.map((value) => el("td", {}, signed(value))),
      facts.tested ? el("td", {}, small(pair.fdr)) : null);
    return el("div", { class: "scroll", role: "region", "aria-label": "The numbers", tabindex: 0 }, el("table", {},
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, bdi(text))))),
      el("tbody", {}, pairs.map(line))));
  }

  /** Both panels, their numbers and their csv, of what is kept of a perturbation or a gene. */
  function effects(kind, row, side, naming, words) {
    const kept = keptOf(side, row);
    const total = kind === "knockdown" ? facts.genes.length : rows.length;
    const half = kept.length === total ? kept.length : kept.length / 2;
    const ups = kept.slice(0, half).filter((pair) => pair.change > 0);
    const downs = kept.slice(-half).reverse().filter((pair) => pair.change < 0);
    const box = el("div");
    const most = Math.max(ups.length, downs.length);

    function draw(count) {
      const [down, up] = [downs.slice(0, count), ups.slice(0, count)];
      const span = Math.max(...[down, up].map((pairs) => reach(scaling(pairs, naming)))) || 1;
      const shown = [...up, ...[...down].reverse()];
      const numbers = el("details", {}, el("summary", {}, "The numbers"));
      numbers.addEventListener("toggle", () => {
        if (numbers.children.length === 1) numbers.append(numbersTable(shown, words.what, naming));
      });
      const more = most > count ? el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => draw(most) }, `Show up to ${most} each`)) : null;
      const name = words.file;
      const all = { what: words.all, name: `${name}_all`, make: async () => csv(pairHeader(), (await everyPair(kind, row)).map((pair) => pairLine(kind, row, pair))) };
      const these = { what: "what is shown", name, make: () => csv(pairHeader(), shown.map((pair) => pairLine(kind, row, pair))) };
      box.replaceChildren(
        ...[shown.length ? legend() : null,
          el("div", { class: "panels" }, panel(words.down, down, span, true, naming), panel(words.up, up, span, false, naming)),
          more, shown.length ? numbers : null, ...handOver(shown.length ? [these, all] : [all])].filter(Boolean));
    }
    draw(FIRST);
    return box;
  }

  // ---- the views

  function linkLine() {
    return el("p", { class: "note" }, ...(confined
      ? ["Link: the page\u2019s address and ", el("code", {}, written || "#")]
      : [el("a", { href: written || "#", class: "here" }, "Link to this view"), " \u00b7 ",
        el("a", { href: "#", class: "close" }, "Close")]));
  }

  const heading = (...children) => el("div", { class: "title" }, el("h2", { tabindex: -1 }, children), linkLine());

  function sureness(row) {
    const { expected_pearson_delta: expected, expected_low: low, expected_high: high, pearson_delta: reached } = row;
    const parts = [];
    if (known(expected)) {
      parts.push(el("p", { class: "big" }, number(expected, 2), " ", el("small", {}, "expected pearson_delta")));
      if (known(low) && known(high)) parts.push(el("p", { class: "note" }, `In 8 of 10 such cases between ${number(low, 2)} and ${number(high, 2)}.`));
    } else parts.push(el("p", {}, "There is nothing to base an expectation on."));
    if (known(reached)) parts.push(el("p", {}, el("b", {}, `Achieved: ${number(reached, 2)}`), ", measured in ", bdi(facts.testLine), "."));
    const marks = [expected, low, high, reached].filter(known);
    if (marks.length) {
      const from = Math.min(0, ...marks), axis = { low: from, span: Math.max(1, ...marks) - from };
      axis.at = (value) => (100 * (value - from)) / axis.span;
      const range = known(low) && known(high) ? standing(el("span", { class: "range" }), axis.at(low), axis.at(high) - axis.at(low)) : null;
      parts.push(el("div", { class: "scale", "aria-hidden": "true" }, range,
        known(expected) ? standing(el("span", { class: "mark dot" }), axis.at(expected)) : null,
        known(reached) ? standing(el("span", { class: "mark test" }), axis.at(reached)) : null,
        [...(from < -0.2 ? [from] : []), 0, 0.5, 1].map((value) => standing(el("span", { class: "tick" }, number(value, 1)), axis.at(value)))));
    }
    return el("div", {}, el("h3", {}, "Confidence"), parts);
  }

  function factsOf(row, at) {
    const names = facts.lines.slice(0, facts.trainingCells[at]?.length ?? 0);
    const seen = names.map((line, n) => [line, facts.trainingCells[at][n]]).filter(([, cells]) => cells > 0);
    const trained = seen.flatMap(([line, cells], n) => [n ? ", " : "", bdi(line), ` (${plural(cells, "cell")})`]);
    const yes = (value, one, other) => (known(value) ? (value ? one : other) : NONE);
    const facing = [
      ["Effect", [known(row.known) ? (facts.known[row.known] ?? row.known) : NONE]],
      ["Trained in", trained.length ? trained : ["no training line"]],
      ["Agreement", [known(row.agreement) ? `${number(row.agreement, 2)} of what the lines\u2019 noise allows` : "unknown"]],
      ["Cells", [`${known(row.cells) ? row.cells.toLocaleString("en") : NONE} predicted, ${row.measured_cells ? `${row.measured_cells.toLocaleString("en")} measured in ` : "none measured in "}`, bdi(facts.testLine)]],
      ["Own gene", [yes(row.target_measured, "among the genes", "not among the genes"), yes(row.flagged, "; the model can identify it", "; the model cannot identify it")]],
      ["Controls", [known(row.control_similarity) ? `${number(row.control_similarity, 3)} like the nearest training line\u2019s` : NONE]],
      ["Strength", [`${number(row.strength, 2)}, stronger than ${Math.round(100 * weaker(row.strength))} % of all`]],
    ];
    return el("dl", { class: "facts" }, facing.flatMap(([term, said]) => [el("dt", {}, term), el("dd", {}, said)]));
  }

  const weaker = (strength) => rows.filter((row) => row.strength < strength).length / rows.length;

  function alikeList(at) {
    const others = facts.alike[at] ?? [];
    if (!others.length || !rows[at].strength) return [];
    return [el("h3", {}, "Knock-downs predicted to look alike"),
      el("ol", { class: "alike" }, others.map((other, n) => el("li", {}, anchor({ knockdown: rows[other].perturbation }, rows[other].perturbation), el("span", {}, number(facts.cosine[at][n], 2))))),
      known(facts.typical) ? el("p", { class: "note" }, `Cosine of the predicted changes; that of the typical pair is ${number(facts.typical, 2)}.`) : null];
  }

  function lookup(row, gene) {
    const input = el("input", { type: "text", id: "lookup", autocomplete: "off", autocapitalize: "off", spellcheck: "false", value: gene ?? "" });
    const ask = (event) => {
      event.preventDefault();
      if (input.value.trim()) go({ ...tableState(), knockdown: row.perturbation, gene: input.value.trim() }, { focus: "#lookup" });
    };
    return el("form", { class: "lookup", onsubmit: ask, action: "#" }, el("label", { for: "lookup" }, "One gene of this knock-down", input), el("button", { type: "submit" }, "Look up"));
  }

  async function answer(at, gene) {
    if (!gene) return null;
    const found = place("gene", gene);
    if (!found) return el("p", { role: "status" }, "None of the genes is called ", bdi(gene), ".");
    const pair = (await everyPair("knockdown", at))[found.at];
    const beside = pair.rounded
      ? " (rounded); what was measured of it is not kept in this page."
      : pair.beside.length ? [" \u2014 measured: ", pair.beside.flatMap((value, n) => [n ? ", " : "", bdi(facts.lines[n]), ` ${signed(value)}`]), "."].flat() : ".";
    return el("p", { role: "status", class: "answer" }, anchor({ gene: found.name }, found.name), ": predicted ", el("b", {}, signed(pair.change)), beside);
  }

  async function knockdownView({ at, name }, gene) {
    const { genes } = await openSides();
    const row = rows[at];
    const own = new Set(name.split("+"));
    const naming = (pair) => ({ view: { gene: facts.genes[pair.other] }, name: facts.genes[pair.other], own: own.has(facts.genes[pair.other]) });
    return el("section", {}, heading("Knock-down of ", bdi(name)),
      el("div", { class: "sure" }, sureness(row), factsOf(row, at)),
      effects("knockdown", at, genes, naming, { down: "Genes that go down", up: "Genes that go up", what: "gene", all: `all ${plural(facts.genes.length, "gene")}`, file: `knock-down_${name}` }),
      lookup(row, gene), await answer(at, gene), alikeList(at));
  }

  async function geneView({ at, name }) {
    const { perturbations } = await openSides();
    const naming = (pair) => ({ view: { knockdown: rows[pair.other].perturbation }, name: rows[pair.other].perturbation, own: rows[pair.other].perturbation.split("+").includes(name) });
    const perturbed = place("knockdown", name);
    return el("section", {}, heading("What moves ", bdi(name)),
      el("p", { class: "lead" }, `Mean in the controls: ${number(facts.control[at], 2)}. `,
        ...(perturbed ? ["What its own knock-down does: ", anchor({ knockdown: perturbed.name }, perturbed.name), "."] : ["It is not perturbed itself."])),
      effects("gene", at, perturbations, naming, { down: "Knock-downs that lower it", up: "Knock-downs that raise it", what: "perturbation", all: `all ${plural(rows.length, "perturbation")}`, file: `gene_${name}` }));
  }

  function missing(name) {
    return el("section", {}, heading("Not here: ", bdi(name)), el("p", {}, "Neither a perturbation nor a gene of this page is called that."));
  }

  // ---- the table

  function filtered() {
    const find = (state.find ?? "").toUpperCase();
    return rows.filter((row) =>
      (!find || [row.perturbation, row.up, row.down].some((text) => text.toUpperCase().includes(find)))
      && (!state.known || row.known === state.known)
      && (!state.line || (state.line === "none" ? !row.lines.length : row.lines.includes(state.line)))
      && (!state.measured || (row.measured_cells > 0) === (state.measured === "yes")));
  }

  function sorted(found) {
    const { sort, order } = state;
    if (!facts.columns.includes(sort)) return found;
    const way = order === "down" ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    return [...found].sort((a, b) => {
      const [x, y] = [a[sort], b[sort]];
      if (!known(x) || !known(y)) return known(y) - known(x); // without a value last, either way
      return way * compare(x, y);
    });
  }

  function drawTable(most = MORE) {
    const found = sorted(filtered()), shown = found.slice(0, most);
    const body = document.querySelector("#table tbody");
    for (const line of body.querySelectorAll("tr.shown")) line.classList.remove("shown");
    for (const row of shown) {
      const head = row.line.firstElementChild;
      if (!head.querySelector("a")) head.replaceChildren(anchor({ knockdown: row.perturbation }, row.perturbation));
      row.line.classList.add("shown");
    }
    body.append(...shown.map((row) => row.line));
    byId("counted").textContent = `${plural(found.length, "perturbation")}${found.length < rows.length ? ` of ${rows.length.toLocaleString("en")}` : ""}${shown.length < found.length ? `, ${shown.length} shown` : ""}.`;
    const more = byId("more");
    more.hidden = shown.length === found.length;
    more.replaceChildren(
      el("button", { type: "button", onclick: () => drawTable(most + MORE) }, `Show ${MORE} more`),
      el("button", { type: "button", onclick: () => drawTable(rows.length) }, "Show all"));
    for (const head of document.querySelectorAll("#table thead th")) {
      if (head.dataset.column === state.sort) head.setAttribute("aria-sort", state.order === "down" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const make = () => csv(facts.columns, found.map((row) => facts.columns.map((column) => row[column])));
    byId("table-csv").replaceChildren(...handOver([{ what: found.length < rows.length ? "this table" : "the table", name: "perturbations", make }]));
    for (const [key, field] of Object.entries(fields())) if (field !== document.activeElement) field.value = state[key] ?? "";
  }

  const fields = () =>
    Object.fromEntries([...document.querySelectorAll(".filters [name]")].map((field) => [field.name, field]));

  function table() {
    const lines = document.querySelectorAll("#table tbody tr");
    rows.forEach((row, at) => { row.line = lines[at]; });
    for (const head of document.querySelectorAll("#table thead th")) {
      const column = head.dataset.column;
      const sort = () => {
        const textual = ["perturbation", "down", "up", "known", "training_lines"].includes(column);
        const order = state.sort === column ? (state.order === "down" ? "up" : "down") : textual ? "up" : "down";
        go({ ...state, sort: column, order }, { replace: true, focus: "" });
      };
      head.firstChild.replaceWith(el("button", { type: "button", onclick: sort }, head.firstChild.cloneNode()));
    }
    const { known: how, line } = fields();
    for (const value of new Set(rows.map((row) => row.known).filter(known))) how.append(el("option", { value }, value));
    for (const value of new Set(rows.flatMap((row) => row.lines))) line.append(el("option", { value }, value));
    line.append(el("option", { value: "none" }, "none"));
    const form = document.querySelector(".filters");
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      const asked = Object.fromEntries(Object.entries(fields()).map(([key, field]) => [key, field.value]));
      go({ ...state, ...asked }, { replace: true, focus: "" });
    });
  }

  // ---- all together

  let drawing = 0, drawn = null;
  async function show(view, focus) {
    const turn = ++drawing;
    state = view;
    drawTable();
    const wanted = JSON.stringify([view.knockdown, view.gene]);
    if (wanted !== drawn) {
      const { knockdown, gene } = view;
      const found = knockdown ? place("knockdown", knockdown) : gene ? place("gene", gene) : null;
      const made = found ? await (knockdown ? knockdownView(found, gene) : geneView(found))
        : knockdown || gene ? missing(knockdown || gene) : null;
      if (turn !== drawing) return; // another view was asked for meanwhile
      drawn = wanted;
      byId("view").replaceChildren(...(made ? [made] : []));
      document.title = made ? `${made.querySelector("h2").textContent} \u2013 ${facts.testLine}` : `Knock-downs in ${facts.testLine}`;
      if (focus && made) {
        made.querySelector(focus).focus({ preventScroll: true });
        if (focus === TITLE) made.scrollIntoView({ block: "start" });
      }
    } else for (const here of document.querySelectorAll("a.here")) here.setAttribute("href", written);
    document.documentElement.dataset.drawn = written || "#";
    requestAnimationFrame(() => setTimeout(() => performance.mark("drawn"))); // it is painted then
  }

  function start() {
    facts = JSON.parse(byId("facts").textContent);
    rows = facts.rows.map((values) => Object.fromEntries(values.map((value, n) => [facts.columns[n], value])));
    for (const row of rows) row.lines = (row.training_lines ?? "").split(",").map((line) => line.trim()).filter(Boolean);
    index();
    table();
    search();
    document.querySelector(".search").hidden = false;
    document.addEventListener("click", (event) => {
      const to = event.target.closest?.('a[href^="#"]');
      if (!to || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault(); // in a frame without an address a link would lead out of the page
      if (to.classList.contains("here")) {
        navigator.clipboard?.writeText(to.href).then(() => { to.textContent = "Link copied"; }, () => {});
        return;
      }
      if (to.classList.contains("close")) {
        go(tableState(), { focus: "" });
        byId("search").focus();
      } else open(parse(to.getAttribute("href")));
    });
    window.addEventListener("hashchange", () => {
      if (location.hash === written || (location.hash === "" && written === "#")) return;
      written = location.hash;
      show(parse(location.hash), TITLE);
    });
    written = location.hash;
    return show(parse(location.hash), "");
  }

  function broken(why) {
    document.documentElement.classList.remove("scripted");
    const told = byId("broken");
    told.textContent = why;
    told.hidden = false;
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (typeof DecompressionStream === "undefined") broken("This browser is too old to look genes up; below is the plain table.");
    else start().catch((error) => {
      console.error(error);
      broken("Genes cannot be looked up here, for a fault of this page; below is the plain table.");
    });
  });
})();
