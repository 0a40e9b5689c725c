// Plots by Bokeh: curves, differences, quality against cost, attention over training.

/** An empty figure in the theme's colours. It lets a page scroll: panning and zooming are chosen in its toolbar. */
function figure(options) {
  const made = Bokeh.Plotting.figure({
    sizing_mode: "stretch_width", height: 400, tools: "pan,box_zoom,reset,save", toolbar_location: "above",
    background_fill_color: style("--paper"), border_fill_color: style("--paper"), outline_line_color: null,
    stylesheets: [":host .bk-events { touch-action: pan-y !important; }"], ...options,
  });
  made.toolbar.logo = null;
  made.toolbar.active_drag = null;
  const text = { text_color: style("--soft"), text_font: style("--sans"), text_font_style: "normal" };
  for (const axis of [...made.below, ...made.left]) {
    for (const [name, value] of Object.entries(text)) {
      axis[`axis_label_${name}`] = value;
      axis[`major_label_${name}`] = value;
    }
    Object.assign(axis, { axis_line_color: style("--line"), major_tick_line_color: style("--line") });
    Object.assign(axis, { minor_tick_line_color: null, axis_label_text_font_size: "13px" });
    axis.major_label_text_font_size = "12px";
  }
  for (const grid of made.center) grid.grid_line_color = style("--line");
  return made;
}

const asked = new Map();

/** Puts a figure in the place of the one before; of several that are asked for at once, the last. */
async function show(place, made) {
  const before = asked.get(place)?.view;
  const exchanged = async () => {
    const last = await before; // Bokeh adds a figure some time after it was asked to
    if (asked.get(place).made !== made) return last;
    if (last) {
      last.remove();
      Bokeh.documents.splice(Bokeh.documents.indexOf(last.model.document), 1);
    }
    place.replaceChildren();
    return Bokeh.Plotting.show(made, place);
  };
  const view = exchanged();
  asked.set(place, { made, view });
  await view;
}

function hover(made, renderers, tooltips) {
  made.add_tools(new Bokeh.HoverTool({ renderers, tooltips, line_policy: "nearest" }));
}

const source = (data) => new Bokeh.ColumnDataSource({ data });

/** What is missing becomes a gap. */
const scaled = (values, factor) => values.map((value) => (value === null ? NaN : factor * value));

/**
 * Lines by name, with their bands where they have some: all lines by one glyph, as 50 take Bokeh a second and a half.
 * The thick one lies above the others. Returns the glyph, and a function that shows all names but the hidden ones.
 */
function drawLines(made, curves, looks, thick) {
  const rows = Object.entries(curves).map(([name, curve], i) => ({ name, ...curve, ...looks[i], wide: name === thick }));
  const bands = rows.filter(({ low }) => low).map(({ name, x, low, high, colour }) => {
    const fill = { source: source({ x, low, high }), fill_color: colour, fill_alpha: 0.13 };
    return [name, made.varea({ field: "x" }, { field: "low" }, { field: "high" }, fill)];
  });
  rows.sort((a, b) => a.wide - b.wide);
  const columns = (hidden) => {
    const shown = rows.filter(({ name }) => !hidden.has(name));
    const points = shown.filter(({ x }) => x.length === 1);
    const look = (some) => ({ name: some.map(({ name }) => name), colour: some.map(({ colour }) => colour) });
    return {
      lines: {
        ...look(shown), x: shown.map(({ x }) => x), y: shown.map(({ y }) => scaled(y, 1)),
        dash: shown.map(({ dash }) => dash), width: shown.map(({ wide }) => (wide ? 3 : 1.8)),
      },
      points: { ...look(points), x: points.map(({ x }) => x[0]), y: points.map(({ y }) => scaled(y, 1)[0]) },
    };
  };
  const at = [{ field: "x" }, { field: "y" }];
  const first = columns(new Set());
  const [lined, dotted] = [source(first.lines), source(first.points)];
  const line = made.multi_line(...at, {
    source: lined, line_color: { field: "colour" }, line_dash: { field: "dash" }, line_width: { field: "width" }, line_join: "round",
  });
  made.scatter(...at, { source: dotted, color: { field: "colour" }, size: 6 });
  const hide = (hidden) => {
    const { lines, points } = columns(hidden);
    Object.assign(lined, { data: lines });
    Object.assign(dotted, { data: points });
    for (const [name, band] of bands) band.visible = !hidden.has(name);
  };
  return { line, hide };
}

/** Buttons that show and hide what is drawn of each name. */
function legend(names, looks, hidden, onChange) {
  const box = make("div", { className: "legend", role: "group", "aria-label": "Shown" });
  const draw = () => {
    box.replaceChildren();
    names.forEach((name, i) => {
      const button = make("button", { type: "button", "aria-pressed": String(!hidden.has(name)) });
      const dash = looks[i].dash.join(" ");
      button.innerHTML = `<svg aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" stroke-width="3"/></svg>`;
      find("line", button).setAttribute("stroke", looks[i].colour);
      find("line", button).setAttribute("stroke-dasharray", dash);
      button.append(name);
      button.addEventListener("click", () => toggle(hidden.has(name) ? hidden.delete(name) : hidden.add(name)));
      box.append(button);
    });
    if (names.length > 3) {
      const all = make("button", { type: "button", textContent: hidden.size ? "show all" : "hide all" });
      all.addEventListener("click", () => toggle(hidden.size ? hidden.clear() : names.forEach((name) => hidden.add(name))));
      box.append(all);
    }
  };
  const toggle = () => {
    const place = [...box.children].indexOf(document.activeElement);
    draw();
    box.children[place]?.focus();
    onChange();
  };
  draw();
  return box;
}

/** Lines by name with a legend: names -> curve; what was hidden stays so when the plot is drawn again. */
async function lines(place, below, curves, looks, hidden, { figure: of, what, y, x = "step", ticks, thick }) {
  const made = figure({ x_axis_label: x, y_axis_label: y, ...of });
  if (ticks) made.below[0].ticker = new Bokeh.FixedTicker({ ticks });
  const names = Object.keys(curves);
  const { line, hide } = drawLines(made, curves, looks, thick);
  hover(made, [line], [[what, "@name"], [x, "$snap_x{0,0}"], [y, "$snap_y{0.0000}"]]);
  const update = () => hide(hidden);
  update();
  below.replaceChildren(...(names.length > 1 ? [legend(names, looks, hidden, update)] : []));
  await show(place, made);
}

function curvesPanel(panel, page) {
  const state = { at: 0, log: false, bands: page.cells.length <= 6, hidden: new Set() };
  const place = make("div", { className: "drawing" });
  const below = make("div");
  const draw = () => {
    const { title, factor, cells } = page.curves[state.at];
    const curves = {};
    const looks = [];
    page.cells.forEach((name) => {
      if (!cells[name]) return;
      const { x, y, low, high } = cells[name];
      curves[name] = { x, y: scaled(y, factor) };
      if (state.bands && low) Object.assign(curves[name], { low: scaled(low, factor), high: scaled(high, factor) });
      looks.push(look(page, name));
    });
    const axis = { y_axis_type: state.log ? "log" : "linear" };
    return lines(place, below, curves, looks, state.hidden, { figure: axis, what: "cell", y: title, thick: page.baseline });
  };
  const change = (name, read) => (value) => {
    state[name] = read(value);
    draw();
  };
  const quantities = page.curves.map(({ title }, i) => [i, title]);
  const controls = make("div", { className: "controls" }, choice("Quantity", quantities, 0, change("at", Number)));
  controls.append(tick("logarithmic", state.log, change("log", Boolean)));
  const some = page.curves.some(({ cells }) => Object.values(cells).some((curve) => curve.low));
  if (some) controls.append(tick("intervals", state.bands, change("bands", Boolean)));
  panel.append(controls, place, below);
  onTheme(draw);
  return draw();
}

function differencesPanel(panel, page) {
  const place = make("div", { className: "drawing" });
  panel.append(place);
  const draw = () => {
    const rows = [...page.differences].sort((a, b) => a.difference - b.difference);
    const colour = { better: style("--better"), worse: style("--worse") };
    const data = source({
      cell: rows.map((row) => row.cell), x: rows.map((row) => row.difference),
      low: rows.map((row) => row.low ?? row.difference), high: rows.map((row) => row.high ?? row.difference),
      p: rows.map((row) => digits(row.p)), verdict: rows.map((row) => row.verdict),
      colour: rows.map((row) => colour[row.verdict] ?? style("--soft")),
    });
    const better = page.higher ? "more is better →" : "← less is better";
    const label = `${page.measure}: cell − ${page.baseline}\n${better}`;
    const made = figure({ y_range: data.data.cell, height: 110 + 26 * rows.length, x_axis_label: label });
    made.ygrid.grid_line_color = null;
    made.add_layout(new Bokeh.Span({ location: 0, dimension: "height", line_color: style("--ink"), line_width: 1 }));
    const at = { field: "cell" };
    const line = { source: data, line_color: { field: "colour" }, line_width: 2 };
    made.segment({ field: "low" }, at, { field: "high" }, at, line);
    // A hollow point: no difference shown.
    const filled = rows.map((row) => colour[row.verdict] ?? style("--paper"));
    data.data.filled = filled;
    const fill = { source: data, size: 10, line_width: 2, line_color: { field: "colour" }, fill_color: { field: "filled" } };
    const dots = made.scatter({ field: "x" }, at, fill);
    const said = [["cell", "@cell"], ["difference", "@x{+0.0000}"], ["interval", "@low{+0.000} to @high{+0.000}"]];
    hover(made, [dots], [...said, ["corrected p", "@p"], ["", "@verdict"]]);
    return show(place, made);
  };
  onTheme(draw);
  return draw();
}

/** Names beside points, on the side where there is room; those without room are left to the pointer. */
function nameApart(made, rows, cost, width) {
  const [inside, height] = [Math.max(200, width - 90), 350];
  const spread = (values) => [Math.min(...values), Math.max(...values) - Math.min(...values) || 1];
  const [left, across] = spread(rows.map((row) => Math.log(row.costs[cost])));
  const [low, up] = spread(rows.flatMap((row) => [row.low, row.high]));
  const taken = [];
  const points = rows.map((row) => {
    const x = (0.05 + (0.9 * (Math.log(row.costs[cost]) - left)) / across) * inside;
    const y = (0.05 + (0.9 * (row.value - low)) / up) * height;
    taken.push([x - 5, x + 5, y - 5, y + 5]);
    return [row, x, y];
  });
  const free = (box) => box[0] > 0 && box[1] < inside - 15 && !taken.some((other) =>
    box[0] < other[1] && other[0] < box[1] && box[2] < other[3] && other[2] < box[3]);
  for (const [row, x, y] of points) {
    const length = 6.5 * row.cell.length;
    const sides = [[8, 0, "left"], [-8, 0, "right"], [0, -14, "center"], [0, 14, "center"]];
    for (const [dx, dy, align] of sides) {
      const from = x + dx - { left: 0, right: length, center: length / 2 }[align];
      const box = [from, from + length, y - dy - 7, y - dy + 7];
      if (!free(box)) continue;
      taken.push(box);
      const look = { text_font_size: "11px", text_color: style("--ink"), text_font: style("--sans"), text_baseline: "middle" };
      const at = [{ value: row.costs[cost] }, { value: row.value }, { value: row.cell }];
      made.text(...at, { ...look, text_align: align, x_offset: dx, y_offset: dy });
      break;
    }
  }
}

function costPanel(panel, page) {
  const names = Object.keys(page.points[0].costs).filter((name) => page.points.some(({ costs }) => costs[name] !== null));
  const state = { cost: names[0] };
  const place = make("div", { className: "drawing" });
  const draw = () => {
    const rows = page.points.filter(({ costs }) => costs[state.cost] !== null);
    const colour = (row) => (row.cell === page.baseline ? style("--ink") : style("--accent"));
    const data = source({
      cell: rows.map((row) => row.cell), x: rows.map((row) => row.costs[state.cost]), y: rows.map((row) => row.value),
      low: rows.map((row) => row.low), high: rows.map((row) => row.high), colour: rows.map(colour),
    });
    const axes = { x_axis_label: `${state.cost} (logarithmic)`, y_axis_label: page.measure, x_axis_type: "log", height: 440 };
    const made = figure(axes);
    const x = { field: "x" };
    const line = { source: data, line_color: { field: "colour" }, line_width: 1.5, line_alpha: 0.6 };
    made.segment(x, { field: "low" }, x, { field: "high" }, line);
    const dots = made.scatter(x, { field: "y" }, { source: data, size: 9, color: { field: "colour" } });
    nameApart(made, rows, state.cost, place.clientWidth);
    hover(made, [dots], [["cell", "@cell"], [page.measure, "@y{0.0000}"], ["interval", "@low{0.000} to @high{0.000}"], [state.cost, "@x{0,0.[00]}"]]);
    return show(place, made);
  };
  const change = (value) => {
    state.cost = value;
    draw();
  };
  const choices = names.map((name) => [name, name]);
  panel.append(make("div", { className: "controls" }, choice("Cost", choices, state.cost, change)), place);
  onTheme(draw);
  return draw();
}

/** Colours of layers: from the ramp's middle to its end. */
const byDepth = (i, count) => ({ colour: css(ramp()[Math.round(90 + (165 * i) / Math.max(1, count - 1))]), dash: DASHES[i % 3] });

async function dynamicsPanel(panel, page) {
  const dynamics = JSON.parse(await inflateText(block("data", "dynamics")));
  const statistics = Object.keys(dynamics);
  // Cells need not have logged the same statistics.
  const ofAll = Object.values(dynamics);
  const cells = page.cells.filter((name) => ofAll.some((found) => found[name]));
  const layers = [...new Set(ofAll.flatMap((found) => Object.values(found).flatMap(Object.keys)))];
  const state = { statistic: statistics.includes("entropy") ? "entropy" : statistics[0], of: `cell ${cells[0]}`, hidden: new Set() };
  const place = make("div", { className: "drawing" });
  const below = make("div");
  const draw = () => {
    const found = dynamics[state.statistic];
    const [kind, name] = [state.of.slice(0, 5).trim(), state.of.slice(5).trim()];
    const curves = {};
    const looks = [];
    if (kind === "cell") {
      const own = Object.entries(found[name] ?? {});
      own.forEach(([layer, curve], i) => {
        curves[`layer ${layer}`] = curve;
        looks.push(byDepth(i, own.length));
      });
    } else {
      page.cells.forEach((cell) => {
        if (!found[cell]?.[name]) return;
        curves[cell] = found[cell][name];
        looks.push(look(page, cell));
      });
    }
    const options = { figure: { height: 340 }, what: kind === "cell" ? "layer" : "cell", y: state.statistic };
    return lines(place, below, curves, looks, state.hidden, { ...options, thick: page.baseline });
  };
  const change = (name) => (value) => {
    state[name] = value;
    if (name === "of") state.hidden.clear();
    draw();
  };
  const shown = cells.map((name) => [`cell ${name}`, `layers of ${name}`]);
  if (cells.length > 1) shown.push(...layers.map((layer) => [`layer ${layer}`, `layer ${layer} of all cells`]));
  const controls = make("div", { className: "controls" });
  controls.append(choice("Statistic", statistics.map((name) => [name, name]), state.statistic, change("statistic")));
  controls.append(choice("Lines", shown, state.of, change("of")));
  panel.append(controls, place, below);
  onTheme(draw);
  return draw();
}
