// The card, and the charts of the last minutes with their axes.
function showCard() {
  const { model, signature, versions, task, backend } = card, name = model.path.split("/").pop();
  $("name").textContent = `${model.architecture.split("/").pop()} · ${name}`; document.title = `${name} · Loadstone`;
  $("about").textContent = `${model.parameters.toLocaleString()} parameters on ${model.device}`;
  const rows = {
    file: model.path, format: model.format, weights: model.weights_path || "at the root", "prefix stripped": model.prefix || "none",
    architecture: `${model.architecture} (${model.source})`, dtypes: Object.entries(model.dtypes).map(([k, v]) => `${k} × ${v}`).join(", "),
    size: bytes(model.bytes), "load time": `${(model.seconds * 1e3).toFixed(1)} ms, ${model.gb_per_s.toFixed(1)} GB/s`,
    inputs: Object.entries(signature.inputs).map(([k, v]) => `${k}: ${v}`).join(", ") + ` (${signature.guessed ? "a guess, " : ""}${signature.source})`,
    backend: `${backend.name} (${backend.source}${backend.speedup ? `, ${backend.speedup} × torch` : ""}${backend.error != null ? `, answers ${backend.error.toExponential(0)} apart` : ""}${backend.threads ? `, ${backend.threads} of its threads` : ""}${backend.most_rows ? `, at most ${backend.most_rows} rows a pass` : ""})`,
    task: task.name && `${task.name} (${task.source})`, labels: task.labels && task.labels.slice(0, 12).join(", ") + (task.labels.length > 12 ? ` … ${task.labels.length} in all` : ""),
    "image preprocessing": task.images, "unused tensors": model.ignored.join(", "), versions: Object.entries(versions).map(([k, v]) => `${k} ${v}`).join(", "),
  };
  if (card.problem) $("problem").replaceChildren(el("strong", "No request has been answered yet"), el("p", card.problem));
  $("problem").hidden = !card.problem;
  $("card").replaceChildren(...Object.entries(rows).filter(([, v]) => v).flatMap(([k, v]) => [el("dt", k), el("dd", v)]));
  if (backend.tried.length) $("card").append(el("dt", "backends tried"), triedTable(backend.tried));
}

// What `score tune` measured, the quickest first.
function triedTable(tried) {
  const rows = Object.keys(tried[0].rows_per_second), many = rows.at(-1), holder = el("dd"), table = el("table");
  const line = (cells, tag) => { const tr = el("tr"); for (const each of cells) tr.append(el(tag, each)); return tr; };
  table.append(line(["backend", ...rows.map(n => `rows/s, ${n} a pass`), "answers"], "th"));
  for (const each of [...tried].sort((a, b) => (b.rows_per_second[many] || 0) - (a.rows_per_second[many] || 0))) {
    const top = each.top_1 ? `, best class of ${each.top_1.same} of ${each.top_1.rows}` : "";
    const answers = each.refused || (each.error == null ? "differ" : `${each.error.toExponential(0)} apart${top}`);
    table.append(line([each.backend, ...rows.map(n => each.rows_per_second[n] ? each.rows_per_second[n].toFixed(0) : ""), answers], "td"));
  }
  holder.append(table);
  return holder;
}

const NS = "http://www.w3.org/2000/svg";
const shape = (tag, attributes) => { const e = document.createElementNS(NS, tag); for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v); return e; };
const number = v => v >= 100 ? v.toFixed(0) : v >= 1 ? String(+v.toFixed(1)) : String(+v.toPrecision(2));

// A chart with its largest value, 0, and what runs along the bottom written beside its axes.
function chart(title, unit, drawing_, most, [left, right], text) {
  const box = el("figure"), plot = el("div", undefined, { class: "plot" }), svg = shape("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(shape("path", { class: "axis", d: "M0 0 V100 H100" }), ...drawing_);
  const high = el("div", undefined, { class: "y" }), wide = el("div", undefined, { class: "x" });
  high.append(el("span", `${number(most)} ${unit}`), el("span", "0")); wide.append(el("span", left), el("span", right));
  plot.append(high, svg, wide); box.append(el("figcaption", title), plot, el("p", text, { class: "hint" }));
  return box;
}
function line(title, unit, series, text) {
  const most = Math.max(1e-9, ...series.flat()), point = (v, i, all) => `${i ? "L" : "M"}${(i / Math.max(all.length - 1, 1) * 100).toFixed(2)} ${(99 - v / most * 95).toFixed(2)}`;
  const paths = series.map((values, at) => shape("path", { class: at ? "second" : "", d: values.map(point).join("") }));
  const seconds = history.length > 1 ? Math.round((history.at(-1).at - history[0].at) / 1e3) : 0;
  return chart(title, unit, paths, most < 1e-8 ? 0 : most, [`${seconds} s ago`, "now"], text);
}
function columns(title, counts, text) {
  const names = Object.keys(counts), values = Object.values(counts), most = Math.max(1, ...values), w = 100 / Math.max(values.length, 1);
  const rects = values.map((v, i) => shape("rect", { x: i * w + w * .1, y: 100 - v / most * 95, width: w * .8, height: v / most * 95 }));
  return chart(title, "requests", rects, values.length ? most : 0, [names[0] ? `up to ${names[0]} rows` : "", names.length > 1 ? `up to ${names.at(-1)}` : ""], text);
}

function charts() {
  const now = history.at(-1), pick_ = get => history.map(get), ms = v => (v ?? 0).toFixed(1);
  $("charts").replaceChildren(
    line("Requests per second", "/s", [pick_(s => s.requests_per_s)], `${now.requests} in all`),
    line("Latency, p50 and p99 (lighter)", "ms", [pick_(s => s.latency_ms.p50 ?? 0), pick_(s => s.latency_ms.p99 ?? 0)], `p50 ${ms(now.latency_ms.p50)} ms, p99 ${ms(now.latency_ms.p99)} ms`),
    columns("Batch size", now.requests_by_batch_rows, Object.entries(now.requests_by_batch_rows).map(([k, v]) => `${k}: ${v}`).join(", ") || "no batches yet"),
    line("Queue", "requests", [pick_(s => s.waiting)], `${now.waiting} waiting, ${now.running_rows} rows running`));
}

async function poll() {
  try { const { serving } = await fetchCard(); history = [...history, { ...serving, at: Date.now() }].slice(-90); charts(); } catch { $("about").textContent = "the server does not answer"; }
  setTimeout(poll, document.hidden ? 10000 : 2000);
}
