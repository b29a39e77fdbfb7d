"use strict";
// Draws the charts, fills the tables when they are opened, and applies the controls. All text is set as text, not HTML.
(() => {
  const figures = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  const form = document.getElementById("controls");
  const chosen = { language: null, site: null, layer: null }; // null: everything

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // Rows as objects, with the name of their run.
  for (const figure of figures) {
    figure.rows = figure.runs.flatMap(({ name, rows }) =>
      rows.map((cells) => {
        const row = { run_: name };
        figure.columns.forEach((column, i) => (row[column.name] = cells[i]));
        return row;
      }),
    );
    const values = figure.rows.map((row) => row[figure.value]).filter((value) => typeof value === "number");
    figure.low = values.reduce((a, b) => Math.min(a, b), values.length ? Infinity : 0);
    figure.high = values.reduce((a, b) => Math.max(a, b), values.length ? -Infinity : 0);
    figure.views = [];
  }

  const known = (control) => {
    const values = new Set();
    for (const figure of figures) {
      for (const column of figure.columns) {
        if (column.control === control) figure.rows.forEach((row) => row[column.name] !== null && values.add(row[column.name]));
      }
    }
    return [...values];
  };

  const isShown = (figure, row) =>
    figure.columns.every(({ name, control }) => {
      if (!control || !chosen[control]) return true;
      if (control === "layer") return row[name] >= chosen.layer[0] && row[name] <= chosen.layer[1];
      return row[name] === null || chosen[control].has(row[name]);
    });
  const rowsOf = (figure) => figure.rows.filter((row) => isShown(figure, row));

  // ---- charts ----

  const theme = (isNarrow) => {
    const isDark = dark.matches && !printing.matches;
    const [text, line] = isDark ? ["#e6edf3", "#3a444f"] : ["#1b1f24", "#d0d7de"];
    const first = isDark ? "#4aa3e0" : "#0072b2";
    const titles = { labelColor: text, titleColor: text, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12 };
    return {
      background: isDark ? "#0f1318" : "#ffffff", // the page's, so that a saved picture is readable everywhere
      aria: false, // each panel has one text of its own
      view: { stroke: null },
      mark: { color: first },
      axis: { ...titles, gridColor: line, domainColor: line, tickColor: line, labelOverlap: true, labelSeparation: 8, labelLimit: 130 },
      // The title of a narrow chart may stand below the names of its rows, and a legend above them.
      axisX: { titleAnchor: isNarrow ? "end" : "middle" },
      axisXQuantitative: { labelFlush: 14 }, // pixels: a number so near an end of the axis does not stick out
      legend: { ...titles, labelLimit: 260, titleLimit: 400, layout: { top: { frame: "bounds" } } },
      range: {
        // Okabe and Ito's colours are distinct with all common kinds of colour blindness.
        category: [first, "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", isDark ? "#f0e442" : "#8a7f00", "#999999", isDark ? "#5a6673" : "#d2d2d2"],
        heatmap: isDark ? ["#18222d", "#2f7cc0", "#d6ecff"] : ["#f2f7fc", "#5b9fd0", "#08306b"],
        diverging: isDark ? ["#5aa9e6", "#18222d", "#ff8a5c"] : ["#2166ac", "#f7f7f7", "#b2182b"],
      },
    };
  };

  const LETTER = 7; // pixels, the mean width of a letter in a chart

  // How many names of a legend fit into a line of the chart.
  const legendColumns = (figure, rows, width) => {
    const field = figure.chart.encoding?.color?.field;
    const longest = rows.reduce((most, row) => Math.max(most, String(row[field] ?? "").length), 0);
    return Math.max(1, Math.floor((width - 20) / (LETTER * longest + 34)));
  };

  const UPRIGHT = 34; // letters of a title that stands beside curves: what their height has room for

  // The specification with titles in lines of at most `most` letters.
  const withLines = (specification, most) => {
    if (Array.isArray(specification)) return specification.map((part) => withLines(part, most));
    if (specification === null || typeof specification !== "object") return specification;
    const lines = (key, value) => {
      if (key === "tooltip") return value;
      if (key !== "title" || typeof value !== "string" || value.length <= most) return withLines(value, key === "y" ? UPRIGHT : most);
      const words = value.split(" ");
      return words.reduce((all, word) => {
        const longer = `${all.at(-1)} ${word}`;
        return longer.length <= most && all.length ? [...all.slice(0, -1), longer] : [...all, word];
      }, []);
    };
    return Object.fromEntries(Object.entries(specification).map(([key, value]) => [key, lines(key, value)]));
  };

  const draw = async (figure, panel) => {
    const rows = rowsOf(figure).filter(panel.holds);
    panel.element.hidden = rows.length === 0;
    const width = panel.chart.clientWidth;
    const columns = legendColumns(figure, rows, width);
    const parameters = Object.entries({ low: figure.low, high: figure.high, columns }).map(([name, value]) => ({ name, value }));
    const specification = {
      ...withLines(figure.chart, Math.floor((0.7 * width) / LETTER)),
      width: "container",
      autosize: { type: "fit-x", contains: "padding" },
      data: { name: "rows", values: rows },
      params: [...(figure.chart.params ?? []), ...parameters],
      config: theme(width < 500),
    };
    const actions = { export: true, source: false, compiled: false, editor: false };
    const options = { mode: "vega-lite", renderer: "svg", ast: true, logLevel: vega.Error, actions, tooltip: { theme: dark.matches ? "dark" : "light" } };
    panel.result?.finalize();
    panel.result = await vegaEmbed(panel.chart, specification, options);
  };

  const makePanels = (figure, element) => {
    const box = element.querySelector(".panels");
    const names = figure.panel ? [...new Set(figure.rows.map((row) => row[figure.panel]))] : [null];
    const title = figure.columns.find((column) => column.name === figure.panel)?.title;
    for (const name of names) {
      for (const run of figure.runs) {
        const parts = [name === null ? "" : `${title} ${name}`, figure.named ? run.name : ""].filter(Boolean).join(", ");
        const chart = make("div", { className: "chart", role: "img", ariaLabel: [parts, figure.alternatives[run.name]].filter(Boolean).join(": ") });
        const panel = make("div", { className: "panel" });
        if (parts) panel.append(make("h4", { textContent: parts }));
        panel.append(chart);
        box.append(panel);
        const holds = (row) => row.run_ === run.name && (name === null || row[figure.panel] === name);
        figure.views.push({ element: panel, chart, holds });
      }
    }
    if (figure.views.length > 1) box.classList.add("several");
    if (figure.runs.length === 2) box.classList.add("pairs");
    figure.empty = make("p", { className: "empty", textContent: "No rows with this choice.", hidden: true });
    box.append(figure.empty);
  };

  let changes = 0;
  const redraw = async () => {
    const before = changes;
    for (const figure of figures) {
      if (figure.chart) for (const panel of figure.views) await draw(figure, panel);
      figure.empty.hidden = rowsOf(figure).length > 0;
      fill(figure);
    }
    if (changes === before) document.body.dataset.ready = "yes";
  };
  let queue = Promise.resolve();
  let waiting = 0;
  const update = () => {
    changes += 1;
    document.body.dataset.ready = "no";
    clearTimeout(waiting);
    waiting = setTimeout(() => (queue = queue.then(redraw)), 60);
  };

  // ---- tables ----

  const text = (value, form) => {
    if (value === null || value === undefined) return "–";
    return form && typeof value === "number" ? vega.defaultLocale().format(form)(value) : String(value);
  };

  // One row for each key, with the values of the runs side by side and, of two runs, their difference.
  const tableOf = (figure) => {
    const columns = figure.columns.filter((column) => column.shown);
    const keys = columns.filter((column) => column.form === null);
    const measured = columns.filter((column) => column.form !== null);
    const rows = rowsOf(figure);
    if (figure.runs.length < 2) {
      return { head: columns, body: rows.map((row) => columns.map((column) => row[column.name])) };
    }
    const merged = new Map();
    for (const row of rows) {
      const key = JSON.stringify(keys.map((column) => row[column.name]));
      if (!merged.has(key)) merged.set(key, {});
      merged.get(key)[row.run_] = row;
    }
    const head = [...keys];
    for (const column of measured) {
      for (const run of figure.runs) head.push({ ...column, title: `${column.title}, ${run.name}` });
      if (figure.runs.length === 2) head.push({ ...column, title: `${column.title}, difference` });
    }
    const body = [...merged.values()].map((of) => {
      const first = Object.values(of)[0];
      const cells = keys.map((column) => first[column.name]);
      for (const column of measured) {
        const values = figure.runs.map((run) => of[run.name]?.[column.name] ?? null);
        cells.push(...values);
        if (values.length === 2) cells.push(values.includes(null) ? null : values[1] - values[0]);
      }
      return cells;
    });
    return { head, body };
  };

  const collator = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
  };

  const fill = (figure) => {
    const { head, body } = tableOf(figure);
    const rows = body.length === 1 ? "row" : "rows";
    figure.details.querySelector("summary").textContent = `Table (${body.length.toLocaleString("en")} ${rows})`;
    if (!figure.details.open) return;
    const { column, isDown } = figure.order ?? {};
    if (column < head.length) {
      const sign = isDown ? -1 : 1;
      body.sort((a, b) => (a[column] === null || b[column] === null ? compare(a[column], b[column]) : sign * compare(a[column], b[column])));
    }
    const cells = head.map(({ title, form }, i) => {
      const arrow = i !== column ? "" : isDown ? " ↓" : " ↑";
      const button = make("button", { type: "button", textContent: title + arrow });
      button.addEventListener("click", () => {
        figure.order = { column: i, isDown: i === column ? !isDown : form !== null };
        fill(figure);
        figure.details.querySelectorAll("thead button")[i].focus();
      });
      const th = make("th", { scope: "col", className: form === null ? "" : "number" }, button);
      if (i === column) th.ariaSort = isDown ? "descending" : "ascending";
      return th;
    });
    const lines = body.map((values) =>
      make("tr", {}, ...values.map((value, i) => make("td", { textContent: text(value, head[i].form), className: head[i].form === null ? "" : "number" }))),
    );
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...lines));
    const region = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `table: ${figure.title}` }, table);
    figure.details.querySelector(".scroll")?.remove();
    figure.details.append(region);
  };

  // ---- controls ----

  const boxes = (id, values) => {
    const fieldset = document.getElementById(id);
    fieldset.hidden = values.length < 2;
    for (const value of values) {
      const input = make("input", { type: "checkbox", name: id, defaultChecked: true });
      input.dataset.value = value;
      fieldset.querySelector("div").append(make("label", {}, input, ` ${value}`));
    }
    const none = make("button", { type: "button", textContent: "none", ariaLabel: `none of the ${id}` });
    none.addEventListener("click", () => {
      fieldset.querySelectorAll("input").forEach((input) => (input.checked = false));
      readControls();
    });
    if (values.length > 4) fieldset.querySelector("div").prepend(none);
  };
  const checked = (id) => {
    const inputs = [...document.querySelectorAll(`#${id} input`)];
    const on = inputs.filter((input) => input.checked).map((input) => input.dataset.value);
    return on.length === inputs.length ? null : new Set(on);
  };
  const readControls = () => {
    chosen.language = checked("languages");
    chosen.site = checked("sites");
    const [from, to] = [...document.querySelectorAll("#layers input")];
    if (from) {
      const first = from.value === "" ? Number(from.min) : from.valueAsNumber;
      const last = to.value === "" ? Number(to.max) : to.valueAsNumber;
      chosen.layer = first <= Number(from.min) && last >= Number(to.max) ? null : [first, last];
    }
    const parts = [];
    const number = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
    if (chosen.language) parts.push(number(chosen.language.size, "language"));
    if (chosen.site) parts.push(number(chosen.site.size, "site"));
    if (chosen.layer) parts.push(`layers ${chosen.layer[0]} to ${chosen.layer[1]}`);
    document.getElementById("state").textContent = parts.length ? `Shown: ${parts.join(", ")}.` : "";
    update();
  };

  if (form) {
    boxes("languages", known("language"));
    boxes("sites", known("site"));
    const layers = known("layer");
    document.getElementById("layers").hidden = layers.length < 2;
    if (layers.length > 1) {
      const [min, max] = [Math.min(...layers), Math.max(...layers)];
      for (const [label, value] of [["from", min], ["to", max]]) {
        const input = make("input", { type: "number", min, max, step: 1, defaultValue: value, name: label });
        document.querySelector("#layers div").append(make("label", {}, `${label} `, input));
      }
    }
    form.hidden = [...form.querySelectorAll("fieldset")].every((fieldset) => fieldset.hidden);
    form.addEventListener("input", readControls);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      update();
      setTimeout(readControls); // when the controls have their first values again
    });
  }

  for (const element of document.querySelectorAll("figure[data-number]")) {
    const figure = figures[Number(element.dataset.number)];
    figure.details = element.querySelector("details.data");
    figure.details.addEventListener("toggle", () => fill(figure));
    makePanels(figure, element);
  }
  dark.addEventListener("change", update);
  printing.addEventListener("change", update);
  queue = queue.then(redraw);
})();
