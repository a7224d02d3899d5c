// What a person gives, and the request that is made of it: the one that is sent is the one that is shown as code.
const PANELS = ["draw", "numbers", "inputs", "text", "question", "ranking", "file", "json"];
const TITLES = { draw: "Draw", numbers: "Numbers", inputs: "Inputs", text: "Text", question: "Question", ranking: "Ranking", file: "File", json: "JSON" };
const lines = id => $(id).value.split("\n").filter(line => line.trim());
const labelled = () => (card.task.parameters || []).includes("candidate_labels");

function spec() {
  const inputs = Object.entries(card.signature.inputs), [name, text] = inputs[0] || ["input", ""], match = /^(\w+)\[(.*)\]$/.exec(text) || [];
  return { name, dtype: match[1] || text, dims: match[2] === undefined ? null : match[2].split(",").map(d => d.trim()), several: inputs.length > 1 };
}

function tabsFor() {
  const { dims, several, dtype } = spec(), fixed = dims && dims.slice(1).every(d => /^\d+$/.test(d)), sizes = dims && dims.slice(1).map(Number), found = [];
  if (["picture", "recording"].includes(card.task.takes)) return ["file", "json"];
  if (card.task.takes) return [card.task.takes, "json"];
  if (card.task.texts) found.push("text");
  if (several && !card.task.texts) found.push("inputs");
  if (!several && fixed && dtype.startsWith("float")) {
    if (sizes.length === 3 && sizes[0] === 1 && sizes[1] <= 64 && sizes[2] <= 64) found.push("draw");
    else if (sizes.length === 1 && sizes[0] <= 64) found.push("numbers");
  }
  return [...(card.task.images ? ["file", ...found] : [...found, "file"]), "json"];
}

function choose(name) {
  tab = name;
  for (const button of $("tabs").children) { const on = button.dataset.tab === name; button.setAttribute("aria-selected", on); button.tabIndex = on ? 0 : -1; }
  for (const each of PANELS) $("panel-" + each).hidden = each !== name;
  $("panel-labels").hidden = name === "json" || !labelled();
  $("panel-parameters").hidden = name === "json" || !(card.task.parameters || []).length;
  $("parameters").placeholder = (card.task.parameters || []).join(", ");
  if (name === "json") $("json").value ||= JSON.stringify(example());
  $("refused").replaceChildren(); snippets();
}

function madeUp(text) {
  const match = /\[(.*)\]$/.exec(text), dims = match ? match[1].split(",").map(d => d.trim()) : ["N"], whole = /^(int|uint|bool|py_int)/.test(text);
  const fill = at => at === dims.length ? (whole ? 0 : 0.5) : Array.from({ length: /^\d+$/.test(dims[at]) ? +dims[at] : at ? 8 : 1 }, () => fill(at + 1));
  return fill(0);
}
function example() {
  const { name, dims, several } = spec();
  if (card.task.example) return card.task.example;
  if (card.task.texts) return { inputs: ["hello world"] };
  if (!several && dims) return { data: madeUp(card.signature.inputs[name]) };
  return { inputs: Object.fromEntries(Object.entries(card.signature.inputs).map(([each, text]) => [each, madeUp(text)])) };
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

// ------------------------------------------------------------ several inputs, a field each

function makeInputs() {
  for (const [name, text] of Object.entries(card.signature.inputs)) {
    const field = el("textarea", undefined, { id: `input-${name}`, spellcheck: "false", class: "low" });
    field.value = JSON.stringify(madeUp(text)); field.addEventListener("input", snippets);
    $("panel-inputs").append(el("label", `${name}: ${text}`, { for: `input-${name}` }), field);
  }
}
function several() {
  const inputs = {};
  for (const name of Object.keys(card.signature.inputs)) { const text = $(`input-${name}`).value.trim(); if (text) inputs[name] = parsed(text, `input-${name}`); }
  return { inputs };
}

// ------------------------------------------------------------ files and recordings

let recording, recorder;
const chosen = () => recording || $("file").files[0];

function pick() {
  const file = chosen(), shows = kind => file && file.type.startsWith(kind);
  $("preview").hidden = !shows("image/"); $("heard").hidden = !shows("audio/");
  for (const [id, kind] of [["preview", "image/"], ["heard", "audio/"]]) if (shows(kind)) address_of(file).then(address => { $(id).src = address; });
  $("refused").replaceChildren(); snippets();
}
function makeDrop() {
  const wanted = card.task.takes === "recording" ? ".wav,.flac,audio/*" : card.task.takes === "picture" || card.task.images ? ".png,.jpg,.jpeg,image/*,.npy,.npz" : ".npy,.npz";
  $("file").accept = wanted;
  $("file-label").textContent = card.task.takes === "recording" ? "Recording (WAV, FLAC), or drop it here" : card.task.takes === "picture" || card.task.images ? "Picture (PNG, JPEG), or drop it here" : "File (npy, npz), or drop it here";
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, event => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, event => { event.preventDefault(); drop.classList.remove("over"); });
  drop.addEventListener("drop", event => { if (event.dataTransfer.files.length) { recording = undefined; $("file").files = event.dataTransfer.files; pick(); } });
  $("file").addEventListener("change", () => { recording = undefined; pick(); });
  $("recorder").hidden = card.task.takes !== "recording" || !navigator.mediaDevices; $("record").onclick = record;
}

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
      $("recorded").textContent = `${((performance.now() - began) / 1e3).toFixed(1)} s recorded`; pick();
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
const address_of = file => new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });

// ------------------------------------------------------------ the request

// What is wrong in a field is said beside it, before anything is sent.
class Wrong extends Error { constructor(field, message) { super(message); this.field = field; } }
function parsed(text, field) { try { return JSON.parse(text); } catch (error) { throw new Wrong(field, `This is not JSON: ${error.message}`); } }

function asked() {
  const given = labelled() ? { candidate_labels: $("labels").value.split(",").map(each => each.trim()).filter(Boolean) } : {}, text = $("parameters").value.trim();
  if (text) Object.assign(given, parsed(text, "parameters"));
  return Object.keys(given).length ? { parameters: given } : {};
}

// `json` where the body is JSON, `file` where it is a file, `form` where it is a file with parameters.
function request() {
  if (tab === "json") return { json: $("json").value };
  if (tab === "file") {
    const file = chosen(), { parameters } = asked();
    if (!file) throw new Wrong("file", "Choose a file first.");
    return parameters ? { form: file, parameters } : { file };
  }
  const bodies = {
    draw: () => { const { high, wide, values } = drawing; return { data: [[Array.from({ length: high }, (_, y) => Array.from(values.slice(y * wide, (y + 1) * wide), v => +(v * +$("white").value).toFixed(3)))]] }; },
    numbers: () => ({ data: [[...$("numbers").querySelectorAll("input")].map(input => input.value === "" ? null : Number(input.value))] }),
    inputs: several,
    text: () => ({ inputs: lines("text"), ...asked() }),
    question: () => ({ inputs: { question: $("question").value, context: $("context").value }, ...asked() }),
    ranking: () => ({ inputs: { query: $("query").value, texts: lines("texts") }, ...asked() }),
  };
  return { json: JSON.stringify(bodies[tab]()) };
}

const kind_of = file => file.name.endsWith(".npy") ? "application/x-npy" : file.name.endsWith(".npz") ? "application/x-npz" : file.type;

async function send() {
  let made;
  try { made = request(); } catch (error) { if (!(error instanceof Wrong)) throw error; wrong(error); return; }
  const file = made.file || made.form, headers = { Accept: "application/json" };
  shown = file && file.type.startsWith("image/") ? await address_of(file) : undefined;
  let body = made.json;
  if (made.file) { body = file; headers["Content-Type"] = kind_of(file); }
  else if (made.form) { body = new FormData(); body.append("file", file); body.append("parameters", JSON.stringify(made.parameters)); }
  else headers["Content-Type"] = "application/json";
  const began = performance.now();
  try {
    const answer = await fetch(url, { method: "POST", body, headers }), text = await answer.text();
    $("took").textContent = `HTTP ${answer.status} in ${(performance.now() - began).toFixed(0)} ms`;
    const document_ = JSON.parse(text);
    if (answer.ok) { $("refused").replaceChildren(); answered(document_); } else refused(document_.error);
  } catch (error) { refused({ code: "no_answer", message: String(error), hint: "Is the server still running?" }); }
}

function snippets() {
  if (!card || !tab) return;
  let made;
  try { made = request(); } catch (error) { if (!(error instanceof Wrong)) throw error; $("code").textContent = tab === "file" ? `# ${error.message}` : ""; return; }
  const address = location.origin + url, quoted = text => `'${text.replaceAll("'", "'\\''")}'`, file = made.file || made.form, name = file ? file.name : "request.json";
  const parameters = made.parameters && JSON.stringify(made.parameters);
  const curl = made.file ? `curl -s ${address} --data-binary @${name}` : made.form ? `curl -s ${address} -F file=@${name} -F ${quoted("parameters=" + parameters)}` : `curl -s ${address} -d ${quoted(made.json)}`;
  const python = made.file ? `import requests\n\nwith open("${name}", "rb") as file:\n    print(requests.post("${address}", data=file).json())`
    : made.form ? `import requests\n\nwith open("${name}", "rb") as file:\n    print(requests.post("${address}", files={"file": file}, data={"parameters": '${parameters}'}).json())`
    : `import json, requests\n\nbody = json.loads(r'''${made.json}''')\nprint(requests.post("${address}", json=body).json())`;
  const azure = made.form ? `# az ml sends one file: put the picture into the JSON body, in base64` : `${file ? "" : `cat > request.json <<'END'\n${made.json}\nEND\n`}az ml online-endpoint invoke --name <endpoint> --request-file ${name}`;
  $("code").textContent = { "curl": curl, "Python": python, "az ml": azure }[$("kind").value];
}
