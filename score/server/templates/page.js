"use strict";
const $ = id => document.getElementById(id), url = location.pathname;
const el = (tag, text, attributes = {}) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v); return e; };
let card, tab, drawing, shown, history = [];
const PANELS = ["draw", "numbers", "text", "question", "ranking", "file", "json"];
const lines = id => $(id).value.split("\n").filter(line => line.trim());
const labelled = () => (card.task.parameters || []).includes("candidate_labels");
function asked() {
  const text = $("parameters").value.trim(), given = labelled() ? { candidate_labels: $("labels").value.split(",").map(each => each.trim()).filter(Boolean) } : {};
  try { Object.assign(given, JSON.parse(text || "{}")); } catch { return { parameters: text }; } // the server says what is wrong with it
  return Object.keys(given).length ? { parameters: given } : {};
}

const fetchCard = async () => (await fetch(url, { headers: { Accept: "application/json" } })).json();
const bytes = n => { let at = 0; while (n >= 1000 && at < 4) { n /= 1000; at++; } return n.toFixed(at ? 1 : 0) + " " + ["B", "kB", "MB", "GB", "TB"][at]; };

function spec() {
  const [name, text] = Object.entries(card.signature.inputs)[0] || ["input", ""];
  const match = /^(\w+)\[(.*)\]$/.exec(text) || [];
  return { name, dtype: match[1] || text, dims: match[2] === undefined ? null : match[2].split(",").map(d => d.trim()), several: Object.keys(card.signature.inputs).length > 1 };
}

function tabsFor() {
  const { dims, several, dtype } = spec(), fixed = dims && dims.slice(1).every(d => /^\d+$/.test(d)), sizes = dims && dims.slice(1).map(Number);
  const found = [];
  if (["picture", "recording"].includes(card.task.takes)) return ["file", "json"];
  if (card.task.takes) return [card.task.takes, "json"];
  if (card.task.texts) found.push("text");
  if (!several && fixed && dtype.startsWith("float")) {
    if (sizes.length === 3 && sizes[0] === 1 && sizes[1] <= 64 && sizes[2] <= 64) found.push("draw");
    else if (sizes.length === 1 && sizes[0] <= 64) found.push("numbers");
  }
  return [...(card.task.images ? ["file", ...found] : [...found, "file"]), "json"].sort((a, b) => (a === "json") - (b === "json"));
}

function choose(name) {
  tab = name;
  for (const button of $("tabs").children) button.setAttribute("aria-selected", button.dataset.tab === name);
  for (const each of PANELS) $("panel-" + each).hidden = each !== name;
  $("panel-labels").hidden = name === "json" || !labelled();
  $("panel-parameters").hidden = name === "json" || !(card.task.parameters || []).length;
  $("parameters").placeholder = (card.task.parameters || []).join(", ");
  if (name === "json") $("json").value ||= JSON.stringify(example());
  snippets();
}

function example() {
  const { name, dims, several } = spec();
  if (card.task.example) return card.task.example;
  if (card.task.texts) return { inputs: ["hello world"] };
  const fill = at => at === dims.length ? 0.5 : Array.from({ length: /^\d+$/.test(dims[at]) ? +dims[at] : at ? 32 : 1 }, () => fill(at + 1));
  return several || !dims ? { inputs: { [name]: dims ? fill(0) : [[0]] } } : { data: fill(0) };
}

// ------------------------------------------------------------ drawing

function makeDrawing() {
  const { dims } = spec(), [high, wide] = dims.slice(2).map(Number), canvas = $("draw"), pen = canvas.getContext("2d");
  drawing = { high, wide, values: new Float32Array(high * wide), x: wide >> 1, y: high >> 1 };
  canvas.width = wide; canvas.height = high; canvas.style.aspectRatio = `${wide} / ${high}`;
  drawing.paint = () => {
    const image = pen.createImageData(wide, high);
    drawing.values.forEach((v, i) => image.data.set([v * 255, v * 255, v * 255, 255], i * 4));
    pen.putImageData(image, 0, 0); snippets();
  };
  const put = (x, y, much) => { if (x >= 0 && y >= 0 && x < wide && y < high) drawing.values[y * wide + x] = Math.min(1, Math.max(drawing.values[y * wide + x], much)); };
  drawing.dot = (x, y) => { put(x, y, 1); const soft = wide > 12 ? 0.6 : 0.25; for (const [a, b] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) put(x + a, y + b, soft); };
  const at = event => { const box = canvas.getBoundingClientRect(); drawing.dot(Math.floor((event.clientX - box.left) / box.width * wide), Math.floor((event.clientY - box.top) / box.height * high)); drawing.paint(); };
  canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); at(event); };
  canvas.onpointermove = event => { if (event.buttons) at(event); };
  canvas.onpointerup = () => send();
  canvas.onkeydown = event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) { drawing.x = Math.min(wide - 1, Math.max(0, drawing.x + step[0])); drawing.y = Math.min(high - 1, Math.max(0, drawing.y + step[1])); }
    else if (event.key === " ") { drawing.dot(drawing.x, drawing.y); drawing.paint(); }
    else if (event.key === "Delete") wipe();
    else return;
    event.preventDefault(); $("where").textContent = `column ${drawing.x + 1}, row ${drawing.y + 1}`;
  };
  $("white").value = card.task.white ?? 1;
  drawing.paint();
}
function wipe() { drawing.values.fill(0); drawing.paint(); }

// ------------------------------------------------------------ asking

function body() {
  if (tab === "draw") { const { high, wide, values } = drawing; return { data: [[Array.from({ length: high }, (_, y) => Array.from(values.slice(y * wide, (y + 1) * wide), v => +(v * +$("white").value).toFixed(3)))]] }; }
  if (tab === "numbers") return { data: [[...$("numbers").querySelectorAll("input")].map(input => input.value === "" ? null : Number(input.value))] };
  if (tab === "text") return { inputs: lines("text"), ...asked() };
  if (tab === "question") return { inputs: { question: $("question").value, context: $("context").value }, ...asked() };
  if (tab === "ranking") return { inputs: { query: $("query").value, texts: lines("texts") }, ...asked() };
  return null;
}

async function send() {
  let sent, type = "application/json";
  if (tab === "file") {
    const file = chosen();
    if (!file) { failed({ code: "no_file", message: "no file is chosen", hint: "Choose a file first." }); return; }
    shown = file.type.startsWith("image/") ? await address_of(file) : undefined;
    if (shown && asked().parameters) sent = JSON.stringify({ inputs: shown.split(",")[1], ...asked() });
    else { sent = file; type = file.name.endsWith(".npy") ? "application/x-npy" : file.name.endsWith(".npz") ? "application/x-npz" : file.type; }
  } else sent = tab === "json" ? $("json").value : JSON.stringify(body());
  const began = performance.now();
  try {
    const answer = await fetch(url, { method: "POST", body: sent, headers: { "Content-Type": type, Accept: "application/json" } });
    const text = await answer.text();
    $("took").textContent = `${answer.status}, ${(performance.now() - began).toFixed(0)} ms`;
    const document_ = JSON.parse(text);
    answer.ok ? answered(document_) : failed(document_.error);
  } catch (error) { failed({ code: "no_answer", message: String(error), hint: "Is the server still running?" }); }
}

const address_of = file => new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });

function failed(error) {
  const box = el("div", undefined, { class: "error", role: "alert" });
  box.append(el("strong", error.code), el("p", error.message), el("p", error.hint || ""), el("p", error.docs || "", { class: "more" }));
  $("answer").replaceChildren(box);
}

function answered(document_) {
  let first = Array.isArray(document_) ? document_ : document_.predictions;
  if (Array.isArray(first?.[0]?.boxes)) first = detected(first[0]);
  const row = Array.isArray(first) ? first[0] : first;
  const parts = [];
  const listed = Array.isArray(first) && (Array.isArray(row) ? row : first), has = name => listed && listed.length && listed.every(each => each && each[name] !== undefined);
  if (shown && (has("box") || has("mask"))) parts.push(drawn(listed));
  if (has("label") && has("score") && !has("mask")) parts.push(scores(listed.map(each => [each.score, each.label])));
  else if (Array.isArray(first?.labels) && Array.isArray(first?.scores)) parts.push(scores(first.scores.map((score, at) => [score, first.labels[at]])));
  if (Array.isArray(row) && row.length > 1 && row.length <= 1000 && row.every(v => typeof v === "number")) parts.push(bars(row));
  const text = JSON.stringify(document_), raw = el("pre", text.length > 20000 ? text.slice(0, 20000) + " …" : text, { tabindex: 0, id: "raw" });
  $("answer").replaceChildren(...parts, raw);
}

// What a detector found in the first row, one object each.
function detected({ boxes, scores, labels, label_names }) {
  return boxes.map(([xmin, ymin, xmax, ymax], at) => ({ box: { xmin, ymin, xmax, ymax }, label: label_names?.[at] ?? String(labels?.[at] ?? at), score: scores?.[at] ?? 1 }));
}

// The picture that was sent, with the boxes or the masks of its answer on it.
function drawn(found) {
  const box = el("div", undefined, { class: "drawn", id: "drawn" }), image = el("img", undefined, { src: shown, alt: "the picture that was sent" });
  const colour = at => `hsl(${at * 67 % 360} 80% 45%)`;
  const fixed = (spec().dims || []).slice(-2).map(Number), own = !card.task.takes && fixed.every(size => size > 0); // boxes are in the model's own input
  image.onload = () => found.slice(0, 50).forEach((each, at) => {
    const [high, wide] = own ? fixed : [image.naturalHeight, image.naturalWidth];
    if (each.box) {
      const { xmin, ymin, xmax, ymax } = each.box, mark = el("span", `${each.label} ${(each.score * 100).toFixed(0)} %`), share = (v, all) => v / all * 100 + "%";
      Object.assign(mark.style, { left: share(xmin, wide), top: share(ymin, high), width: share(xmax - xmin, wide), height: share(ymax - ymin, high), borderColor: colour(at), color: colour(at) });
      box.append(mark);
    } else if (each.mask) {
      const layer = el("i", undefined, { role: "img", "aria-label": `where ${each.label} is` });
      layer.style.background = colour(at); layer.style.mask = `url(data:image/png;base64,${each.mask}) 0 0 / 100% 100% luminance`;
      box.append(layer);
    }
  });
  box.append(image);
  return box;
}

function bars(row) {
  const sum = row.reduce((a, b) => a + b, 0), already = row.every(v => v >= 0) && Math.abs(sum - 1) < 1e-3, most = Math.max(...row);
  const powers = row.map(v => Math.exp(v - most)), total = powers.reduce((a, b) => a + b, 0), shares = already ? row : powers.map(v => v / total);
  const labels = card.task.labels || [];
  return scores(shares.map((share, at) => [share, labels[at] ?? String(at)]));
}

function scores(pairs) {
  const list = el("div", undefined, { role: "list", "aria-label": "Classes by probability", id: "bars" });
  pairs.sort((a, b) => b[0] - a[0]).slice(0, 10).forEach(([share, label]) => {
    const item = el("div", undefined, { class: "bar", role: "listitem" }), bar = el("i"), holder = el("span");
    bar.style.width = share * 100 + "%"; holder.append(bar);
    item.append(el("span", label), holder, el("b", (share * 100).toFixed(1) + " %")); list.append(item);
  });
  return list;
}

// ------------------------------------------------------------ a recording, as WAV

let recording, recorder;
const chosen = () => recording || $("file").files[0];

async function record() {
  if (recorder) { recorder.stop(); return; }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), parts = [], began = performance.now();
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = async () => {
      for (const track of stream.getTracks()) track.stop();
      recorder = undefined; $("record").textContent = "Record"; $("record").setAttribute("aria-pressed", "false");
      const heard = await new AudioContext().decodeAudioData(await new Blob(parts).arrayBuffer());
      recording = new File([wav(heard.getChannelData(0), heard.sampleRate)], "recording.wav", { type: "audio/wav" });
      $("recorded").textContent = `${((performance.now() - began) / 1e3).toFixed(1)} s recorded`; snippets();
    };
    recorder.start(); $("record").textContent = "Stop"; $("record").setAttribute("aria-pressed", "true"); $("recorded").textContent = "recording …";
  } catch (error) { $("recorded").textContent = `no microphone: ${error.message}`; }
}

// Samples between -1 and 1 as a WAV file of 16 bits (soundfile.sapp.org/doc/WaveFormat).
function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2)), text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + samples.length * 2, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, rate * 2, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, samples.length * 2, true);
  samples.forEach((value, at) => view.setInt16(44 + at * 2, Math.max(-1, Math.min(1, value)) * 32767, true));
  return view.buffer;
}

// ------------------------------------------------------------ the same request elsewhere

function snippets() {
  if (!card) return;
  const file = tab === "file", json = tab === "json" ? $("json").value : file ? "" : JSON.stringify(body()), address = location.origin + url;
  const name = file ? (chosen() || { name: "input.npy" }).name : "request.json", quoted = json.replaceAll("'", "'\\''");
  $("code").textContent = {
    "curl": file ? `curl -s ${address} --data-binary @${name}` : `curl -s ${address} -d '${quoted}'`,
    "Python": file ? `import requests\n\nwith open("${name}", "rb") as file:\n    print(requests.post("${address}", data=file).json())` : `import json, requests\n\nbody = json.loads(r'''${json}''')\nprint(requests.post("${address}", json=body).json())`,
    "az ml": `${file ? "" : `cat > request.json <<'END'\n${json}\nEND\n`}az ml online-endpoint invoke --name <endpoint> --request-file ${name}`,
  }[$("kind").value];
}

// ------------------------------------------------------------ the card and the charts

function showCard() {
  const { model, signature, versions, task } = card, name = model.path.split("/").pop();
  $("name").textContent = `${model.architecture} · ${name}`; document.title = `${model.architecture} · Loadstone`;
  $("about").textContent = `${model.parameters.toLocaleString()} parameters on ${model.device}`;
  const rows = {
    file: model.path, format: model.format, weights: model.weights_path || "at the root", "prefix stripped": model.prefix || "none",
    architecture: `${model.architecture} (${model.source})`, dtypes: Object.entries(model.dtypes).map(([k, v]) => `${k} × ${v}`).join(", "),
    size: bytes(model.bytes), loaded: `in ${(model.seconds * 1e3).toFixed(1)} ms, ${model.gb_per_s.toFixed(1)} GB/s`,
    takes: Object.entries(signature.inputs).map(([k, v]) => `${k}: ${v}`).join(", ") + ` (${signature.source})`,
    task: task.name && `${task.name} (${task.source})`, labels: task.labels && task.labels.slice(0, 12).join(", ") + (task.labels.length > 12 ? " …" : ""), images: task.images,
    ignored: model.ignored.join(", "), versions: Object.entries(versions).map(([k, v]) => `${k} ${v}`).join(", "),
  };
  if (card.problem) $("problem").append(el("strong", "No request has been answered yet"), el("p", card.problem));
  $("problem").hidden = !card.problem;
  $("card").replaceChildren(...Object.entries(rows).filter(([, v]) => v).flatMap(([k, v]) => [el("dt", k), el("dd", v)]));
}

const NS = "http://www.w3.org/2000/svg";
const shape = (tag, attributes) => { const e = document.createElementNS(NS, tag); for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v); return e; };
function picture(shapes) {
  const svg = shape("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(...shapes);
  return svg;
}
function line(series, classes) {
  const most = Math.max(1e-9, ...series.flat());
  const point = (v, i, all) => `${i ? "L" : "M"}${(i / Math.max(all.length - 1, 1) * 100).toFixed(2)} ${(98 - v / most * 94).toFixed(2)}`;
  return picture(series.map((values, at) => shape("path", { class: classes[at] || "", d: values.map(point).join("") })));
}
function columns(counts) {
  const values = Object.values(counts), most = Math.max(1, ...values), w = 100 / values.length;
  return picture(values.map((v, i) => shape("rect", { x: i * w + w * .1, y: 100 - v / most * 96, width: w * .8, height: v / most * 96 })));
}
function figure(chart, text) { const f = el("figure"); f.append(chart, el("figcaption", text)); return f; }

function charts() {
  const now = history.at(-1), pick = get => history.map(get), ms = v => (v ?? 0).toFixed(1);
  $("charts").replaceChildren(
    figure(line([pick(s => s.requests_per_s)], []), `${now.requests_per_s} requests/s over the last minute, ${now.requests} in all`),
    figure(line([pick(s => s.latency_ms.p50 ?? 0), pick(s => s.latency_ms.p99 ?? 0)], ["", "second"]), `latency: p50 ${ms(now.latency_ms.p50)} ms, p99 ${ms(now.latency_ms.p99)} ms`),
    figure(columns(now.requests_by_batch_rows), `rows a pass: ${Object.entries(now.requests_by_batch_rows).map(([k, v]) => `up to ${k}: ${v}`).join(", ") || "none yet"}`),
    figure(line([pick(s => s.waiting)], []), `${now.waiting} waiting, ${now.running_rows} rows running`));
}

async function poll() {
  try { const { serving } = await fetchCard(); history = [...history, serving].slice(-90); charts(); } catch { $("about").textContent = "the server does not answer"; }
  setTimeout(poll, document.hidden ? 10000 : 2000);
}

(async () => {
  card = await fetchCard();
  if (card.error) { failed(card.error); $("about").textContent = "the model is not loaded"; return; }
  showCard();
  const names = { draw: "Draw", numbers: "Numbers", text: "Text", question: "Question", ranking: "Ranking", file: "File", json: "JSON" };
  for (const each of tabsFor()) { const button = el("button", names[each], { type: "button", role: "tab", "data-tab": each }); button.onclick = () => choose(each); $("tabs").append(button); }
  if (tabsFor().includes("draw")) makeDrawing();
  if (tabsFor().includes("numbers")) for (let at = 0; at < +spec().dims[1]; at++) { const label = el("label", String(at)); label.append(el("input", undefined, { type: "number", step: "any", value: "0.5", "aria-label": `value ${at}` })); $("numbers").append(label); }
  choose(tabsFor()[0]);
  $("recorder").hidden = card.task.takes !== "recording" || !navigator.mediaDevices; $("record").onclick = record;
  $("file").addEventListener("change", () => { recording = undefined; });
  $("send").onclick = send; $("clear").onclick = wipe; $("kind").onchange = snippets;
  for (const each of ["json", "text", "question", "context", "query", "texts", "labels", "parameters", "numbers", "file", "white"]) $(each).addEventListener("input", snippets);
  $("copy").onclick = async () => { try { await navigator.clipboard.writeText($("code").textContent); $("copied").textContent = "copied"; } catch { getSelection().selectAllChildren($("code")); $("copied").textContent = "selected: press Ctrl+C"; } };
  poll();
})();
