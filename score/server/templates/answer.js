// What came back: as labels, boxes, masks or numbers where it is that, and always as it is.
function wrong({ field, message }) {
  const box = el("div", undefined, { class: "error" });
  box.append(el("strong", message)); $("refused").replaceChildren(box);
  $(field).setAttribute("aria-invalid", "true"); $(field).focus();
  $(field).addEventListener("input", () => { $(field).removeAttribute("aria-invalid"); $("refused").replaceChildren(); }, { once: true });
}

function refused(error) {
  const box = el("div", undefined, { class: "error" });
  box.append(el("strong", error.code), el("p", error.message), el("p", error.hint || ""));
  if (error.docs) box.append(el("p", error.docs, { class: "hint" }));
  $("refused").replaceChildren(box);
}

function answered(document_) {
  let first = Array.isArray(document_) ? document_ : document_.predictions ?? document_;
  if (Array.isArray(first?.[0]?.boxes)) first = detected(first[0]);
  const row = Array.isArray(first) ? first[0] : first, listed = Array.isArray(first) && (Array.isArray(row) ? row : first), parts = [];
  const has = name => listed && listed.length && listed.every(each => each && each[name] !== undefined);
  if (shown && (has("box") || has("mask"))) parts.push(drawn(listed));
  if (has("label") && has("score") && !has("mask")) parts.push(bars(listed.map(each => [each.score, each.label]), listed.every(each => each.score >= 0 && each.score <= 1)));
  else if (Array.isArray(first?.labels) && Array.isArray(first?.scores)) parts.push(bars(first.scores.map((score, at) => [score, first.labels[at]]), true));
  else if (typeof first?.answer === "string") parts.push(el("p", first.answer, { class: "said" }));
  for (const key of ["generated_text", "summary_text", "translation_text", "text"]) if (listed && typeof listed[0]?.[key] === "string") parts.push(el("p", listed[0][key], { class: "said" }));
  if (Array.isArray(row) && row.length > 1 && row.length <= 1000 && row.every(v => typeof v === "number")) parts.push(numbers(row));
  const text = JSON.stringify(document_), raw = el("pre", text.length > 20000 ? text.slice(0, 20000) + " …" : text, { tabindex: 0, id: "raw", role: "region", "aria-label": "Response body" });
  $("answer").replaceChildren(...parts, raw);
}

// What a detector found in the first row, one object each.
function detected({ boxes, scores, labels, label_names }) {
  return boxes.map(([xmin, ymin, xmax, ymax], at) => ({ box: { xmin, ymin, xmax, ymax }, label: label_names?.[at] ?? String(labels?.[at] ?? at), score: scores?.[at] ?? 1 }));
}

// The picture that was sent, with the boxes or the masks of its answer on it.
function drawn(found) {
  const box = el("div", undefined, { class: "drawn", id: "drawn" }), image = el("img", undefined, { src: shown, alt: "The picture that was sent" });
  const colour = at => `hsl(${at * 67 % 360} 80% 45%)`;
  const fixed = (spec().dims || []).slice(-2).map(Number), own = !card.task.takes && fixed.every(size => size > 0); // boxes are in the model's own input
  image.onload = () => found.slice(0, 50).forEach((each, at) => {
    const [high, wide] = own ? fixed : [image.naturalHeight, image.naturalWidth];
    if (each.box) {
      const { xmin, ymin, xmax, ymax } = each.box, mark = el("span"), share = (v, all) => v / all * 100 + "%";
      mark.append(el("b", `${each.label} ${each.score <= 1 ? (each.score * 100).toFixed(0) + " %" : each.score.toFixed(2)}`));
      Object.assign(mark.style, { left: share(xmin, wide), top: share(ymin, high), width: share(xmax - xmin, wide), height: share(ymax - ymin, high), borderColor: colour(at) });
      box.append(mark);
    } else if (each.mask) {
      const layer = el("i", undefined, { role: "img", "aria-label": `Mask of ${each.label}` });
      layer.style.background = colour(at); layer.style.mask = `url(data:image/png;base64,${each.mask}) 0 0 / 100% 100% luminance`;
      box.append(layer);
    }
  });
  box.append(image);
  if (!found.some(each => each.mask)) return box;
  const whole = el("div"), legend = el("ul", undefined, { class: "legend" });
  found.slice(0, 50).forEach((each, at) => { const item = el("li", each.label), swatch = el("i"); swatch.style.background = colour(at); item.prepend(swatch); legend.append(item); });
  whole.append(box, legend);
  return whole;
}

// A row of numbers: probabilities where the model's classes are known, and else the numbers themselves.
function numbers(row) {
  const labels = card.task.labels || [], sum = row.reduce((a, b) => a + b, 0), already = row.every(v => v >= 0) && Math.abs(sum - 1) < 1e-3, most = Math.max(...row);
  if (labels.length !== row.length) return bars(row.map((value, at) => [value, String(at)]), already);
  const powers = row.map(v => Math.exp(v - most)), total = powers.reduce((a, b) => a + b, 0);
  return bars((already ? row : powers.map(v => v / total)).map((share, at) => [share, labels[at]]), true);
}

function bars(pairs, shares) {
  const list = el("div", undefined, { role: "list", "aria-label": shares ? "Classes by probability" : "Outputs by value", id: "bars" });
  const top = pairs.sort((a, b) => b[0] - a[0]).slice(0, 10), most = shares ? 1 : Math.max(1e-12, ...top.map(([value]) => Math.abs(value)));
  for (const [value, label] of top) {
    const item = el("div", undefined, { class: "bar", role: "listitem" }), bar = el("i"), holder = el("span");
    bar.style.width = Math.abs(value) / most * 100 + "%"; if (value < 0) bar.className = "below"; holder.append(bar);
    item.append(el("span", label), holder, el("b", shares ? (value * 100).toFixed(1) + " %" : String(+value.toPrecision(4)))); list.append(item);
  }
  return list;
}
